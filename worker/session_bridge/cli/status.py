"""`session-bridge status`: how things stand, at a glance."""

from __future__ import annotations

import asyncio

import click

from session_bridge.archive.book import states
from session_bridge.cli.output import EXIT_ERROR, console, print_facts, print_json
from session_bridge.live.sessions import redis_errors
from session_bridge.service import Bridge, open_bridge
from session_bridge.settings import load_settings


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status_command(*, as_json: bool) -> None:
    """Say how many calls wait, are in work, are archived or dead, and whether a worker runs.

    Exit status 1 if calls wait and no worker seems to run.
    """

    async def read() -> dict[str, object]:
        async with open_bridge(load_settings()) as bridge:
            return await _status(bridge)

    status = asyncio.run(read())
    if as_json:
        print_json(status)
    else:
        print_facts(status)
    if status["waiting"] and not status["workers"]:
        if not as_json:
            console.print("calls wait and no worker seems to run: start `session-bridge worker`")
        raise SystemExit(EXIT_ERROR)


async def _status(bridge: Bridge) -> dict[str, object]:
    async with redis_errors():
        waiting = await bridge.overview.waiting()
    book = await states(bridge.connections)
    return {
        "waiting": waiting.due,
        "later": waiting.later,
        "in work": waiting.leased,
        "oldest waits (s)": round(waiting.oldest_seconds, 1),
        "checkpoints waiting": waiting.checkpoints,
        "workers": waiting.workers,
        **{state: book.get(state, 0) for state in ("live", "checkpointed", "archived", "dead", "lost", "retired")},
    }
