"""`session-bridge explain`: one call's whole story."""

from __future__ import annotations

import asyncio
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from session_bridge.archive.book import RETIRED, standing
from session_bridge.archive.report import Moment, timeline
from session_bridge.cli.calls import call_sid_argument
from session_bridge.cli.output import console, print_json
from session_bridge.errors import UnknownCallError
from session_bridge.live.overview import Whereabouts
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

_STYLES = {
    "archived": "green",
    "merged": "green",
    "checkpointed": "cyan",
    "refused": "yellow",
    "not_released": "yellow",
    "dead": "bold red",
    "lost": "bold red",
}


@click.command("explain")
@click.argument("call_sid", callback=call_sid_argument)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain_command(*, call_sid: str, as_json: bool) -> None:
    """Tell one call's whole story: opened, asked for, attempts, checkpoints, commit, release, late merges.

    And where it is now, in Redis and in the archive.
    """
    moments, live = asyncio.run(_read(call_sid))
    if not moments and not live.fields and live.due_ms is None:
        raise UnknownCallError(f"{call_sid} is neither live nor in the book: look at its spelling")
    now = _now_in_redis(live)
    if as_json:
        print_json({"call_sid": call_sid, "now": now, "timeline": [asdict(moment) for moment in moments]})
        return
    generations = len({moment.generation for moment in moments if moment.generation})
    for moment in moments:
        when = moment.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        which = f" (call {moment.generation})" if generations > 1 and moment.generation else ""
        style = _STYLES.get(moment.what, "")
        words = moment.what.replace("_", " ")
        console.print(Text.assemble((f"{when}  ", "dim"), (words, style), which, "  ", (_said(moment.detail), "dim")))
    console.print(Text.assemble(("now", "bold"), f"  {_in_words(live)}"))


async def _read(call_sid: str) -> tuple[list[Moment], Whereabouts]:
    async with open_bridge(load_settings()) as bridge:
        moments = await timeline(bridge.readers, call_sid)
        if not moments and (await standing(bridge.connections, [call_sid])).get(call_sid) == RETIRED:
            raise UnknownCallError(f"{call_sid} is retired: retention or an erasure took all that was known of it")
        return moments, await bridge.overview.whereabouts(call_sid)


def _said(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in detail.items())


def _now_in_redis(live: Whereabouts) -> dict[str, object]:
    score = live.due_ms
    # JSON has no word for what is infinite.
    shown = score if score is None or math.isfinite(score) else str(score)
    return asdict(live) | {"due_ms": shown, "due_at": _moment(score)}


def _moment(milliseconds: float | None) -> datetime | None:
    """When that is; None for no score, and for one that is no time."""
    try:
        return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _in_words(live: Whereabouts) -> str:
    if not live.fields:
        there = "nothing of it is in Redis"
    else:
        ttl = "on hold" if live.ttl_seconds is None else f"expires in {live.ttl_seconds:.0f} s"
        there = f"{live.fields} fields of it are in Redis, {ttl}"
    due = _moment(live.due_ms)
    if live.due_ms is None:
        asked = "no drain is asked for"
    elif due is None:
        asked = f"its drain is asked for with the score {live.due_ms:.19g}, which is no time in milliseconds since 1970"
    elif not live.due_ms.is_integer():
        asked = f"a worker has it in hand, its lease ends {due:%H:%M:%S}"
    else:
        asked = f"its drain is due {due:%Y-%m-%d %H:%M:%S}"
    tries = f"; {live.attempts} drains failed by its data" if live.attempts else ""
    return f"{there}; {asked}{tries}"
