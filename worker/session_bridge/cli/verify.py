"""`session-bridge verify`: whether an archive is whole and true."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from session_bridge.cli.output import EXIT_ERROR, console, errors, print_json
from session_bridge.settings import Settings, load_settings
from session_bridge.verify.checks import Line, Outcome
from session_bridge.verify.run import SAMPLE, verify

_STYLES = {Outcome.PASS: "green", Outcome.FAIL: "bold red", Outcome.SKIP: "yellow"}


@click.command("verify")
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=SAMPLE,
    show_default=True,
    help="How many calls are made again from their rows, drawn at random; an archive of no more is looked at whole.",
)
@click.option("--all", "every", is_flag=True, help="Every call.")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def verify_command(*, sample: int, every: bool, as_json: bool) -> None:
    """Verify the archive, PASS or FAIL a line.

    It looks at tables, indexes, functions, views and partitions; at the books; at what calls are stored as beside what
    their rows come to; and at how people's look-ups are planned. It writes nothing, and holds nobody up. Exit status 1
    if a line is FAIL; a line is SKIP where there is nothing to look at, and says why.
    """
    lines = asyncio.run(_verify(load_settings(), None if every else sample))
    counts = Counter(line.outcome for line in lines)
    if as_json:
        print_json(
            {"counts": {outcome.value: counts[outcome] for outcome in Outcome}, "lines": [asdict(one) for one in lines]}
        )
    else:
        _print(lines)
        shown = [f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]]
        console.print(f"\n{len(lines)} checks: {', '.join(shown)}")
    if counts[Outcome.FAIL]:
        raise SystemExit(EXIT_ERROR)


async def _verify(settings: Settings, sample: int | None) -> list[Line]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("calls looked at", total=None)

        def show(looked: int, of: int) -> None:
            progress.update(task, completed=looked, total=of)

        return await verify(settings, sample, show)


def _print(lines: Sequence[Line]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("outcome")
    table.add_column("check", style="dim", no_wrap=True)
    table.add_column("found, and what to do", overflow="fold")
    for line in lines:
        style = _STYLES[line.outcome]
        said = Text(line.found)
        if line.do:
            said.append(f"\n→ {line.do}", style=style)
        table.add_row(Text(line.outcome, style=style), Text(line.title), said)
    console.print(table)
