"""The command line's root: what all commands share."""

from __future__ import annotations

import importlib
from typing import Any

import click

from session_bridge import __version__
from session_bridge.cli.output import bear_any_text, report_errors

_COMMANDS = {
    "up": "session_bridge.cli.up",
    "play": "session_bridge.cli.up",
    "worker": "session_bridge.cli.worker",
    "webhooks": "session_bridge.cli.webhooks",
    "sweep": "session_bridge.cli.sweep",
    "migrate": "session_bridge.cli.archive",
    "adopt": "session_bridge.cli.archive",
    "compat": "session_bridge.cli.archive",
    "roles": "session_bridge.cli.roles",
    "readers": "session_bridge.cli.readers",
    "search": "session_bridge.cli.search",
    "embeddings": "session_bridge.cli.search",
    "stats": "session_bridge.cli.stats",
    "finalize": "session_bridge.cli.calls",
    "show": "session_bridge.cli.calls",
    "check": "session_bridge.cli.check",
    "explain": "session_bridge.cli.explain",
    "ledger": "session_bridge.cli.ledger",
    "dead": "session_bridge.cli.dead",
    "rates": "session_bridge.cli.rates",
    "credits": "session_bridge.cli.credits",
    "budget": "session_bridge.cli.budget",
    "delete": "session_bridge.cli.erase",
    "erase": "session_bridge.cli.erase",
    "retention": "session_bridge.cli.retention",
    "partitions": "session_bridge.cli.partitions",
    "settings": "session_bridge.cli.settings",
    "status": "session_bridge.cli.status",
    "doctor": "session_bridge.cli.doctor",
    "verify": "session_bridge.cli.verify",
}


class _Commands(click.Group):
    """Imports a command's module when the command is asked for: `--help` of one must not wait for all."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's own signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(module), f"{cmd_name}_command")
        return command if isinstance(command, click.Command) else None

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # click's own signature
        with report_errors():
            return super().invoke(ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def app() -> None:
    """Turn live calls in Redis into permanent records in PostgreSQL.

    Begin with `session-bridge up --play 25`: it starts both servers, plays calls, and shows what became of them. With
    REDIS_URL and DATABASE_URL set, every command works on those servers. `session-bridge settings` lists all settings.
    """
    bear_any_text()
    from session_bridge import log  # noqa: PLC0415  # the base installation has not what it needs, but a --version

    # For all that say nothing else: what goes wrong is told by their own words.
    log.configure("console", "warning")
