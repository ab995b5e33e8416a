"""`session-bridge settings`: every setting, its value, where it comes from and what it means."""

from __future__ import annotations

from dataclasses import asdict

import click

from session_bridge.cli.output import print_json, print_table
from session_bridge.settings import load_settings, setting_lines


@click.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def settings_command(*, as_json: bool) -> None:
    """List every setting with its value, its source and its meaning.

    Settings come from the environment. A wrong one, or a combination that could lose data, is refused here as it
    would be by every command.
    """
    lines = setting_lines(load_settings())
    if as_json:
        print_json([asdict(line) for line in lines])
    else:
        rows = [(line.name, line.value, line.source, line.meaning) for line in lines]
        print_table("settings", ("name", "value", "source", "meaning"), rows)
