"""`session-bridge finalize` and `show`: one call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click
from redis.exceptions import ResponseError
from rich.text import Text

from session_bridge.archive.deletion import deleted_since
from session_bridge.archive.report import CallReport, MessageLine, call_report
from session_bridge.archive.tables import EVENT_TABLES, Cell
from session_bridge.cli.output import console, print_facts, print_json, print_table
from session_bridge.contract.fields import Family, FinalizedBy
from session_bridge.contract.keys import check_call_sid
from session_bridge.drain.outcome import load_outcome
from session_bridge.drain.preview import Preview, preview
from session_bridge.errors import UnknownCallError
from session_bridge.live.sessions import redis_errors
from session_bridge.recorder import request_drain
from session_bridge.redaction import load_redaction
from session_bridge.service import Bridge, open_bridge, understanding_of
from session_bridge.settings import Settings, load_settings

_ROLE_STYLES = {"user": "cyan", "assistant": "green", "system": "dim", "tool": "magenta"}
# What of a call a person wants to see first; the rest is in --json and in the tables.
_FACTS = (
    "call_sid",
    "status",
    "outcome",
    "end_reason",
    "completeness",
    "provider",
    "direction",
    "from_number",
    "to_number",
    "agent_name",
    "language",
    "started_at",
    "ended_at",
    "duration_seconds",
    "recording_url",
    "summary",
    "collected_data",
    "avg_user_to_bot_latency_ms",
    "p95_user_to_bot_latency_ms",
    "total_llm_tokens",
    "total_cost_cents",
    "finalize_reason",
    "finalized_by",
    "drains",
    "archived_at",
    "row_counts",
)


def call_sid_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A call SID from the command line."""
    try:
        return check_call_sid(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("finalize")
@click.argument("call_sid", callback=call_sid_argument)
@click.option("--reason", default="command", show_default=True, help="Why, kept as finalize_reason.")
@click.option("--grace", type=click.FloatRange(0), default=0.0, help="Seconds from now at which it is due.")
def finalize_command(*, call_sid: str, reason: str, grace: float) -> None:
    """Ask for the drain of a call: it is over.

    A running worker archives it. The same as ZADD <namespace>:ready <due_epoch_ms> <call_sid>.
    """
    settings = load_settings()
    asyncio.run(_finalize(settings, call_sid, reason, grace))


async def _finalize(settings: Settings, call_sid: str, reason: str, grace: float) -> None:
    async with open_bridge(settings) as bridge:
        if not await bridge.redis.exists(bridge.keys.session(call_sid)):
            if await call_report(bridge.connections, call_sid) is None:
                raise UnknownCallError(f"{call_sid} is neither live nor archived: look at its spelling")
            console.print(f"{call_sid} is archived and nothing of it is live: there is nothing to do")
            return
        await request_drain(
            bridge.redis, call_sid, reason=reason, by=FinalizedBy.COMMAND, grace=grace, keys=bridge.keys
        )
    console.print(f"asked for: see `session-bridge show {call_sid}`")


@click.command("show")
@click.argument("call_sid", callback=call_sid_argument)
@click.option("--json", "as_json", is_flag=True, help="Print every column as JSON.")
def show_command(*, call_sid: str, as_json: bool) -> None:
    """Show a call as a person would read it, live or archived."""
    settings = load_settings()
    asyncio.run(_show(settings, call_sid, as_json=as_json))


async def _show(settings: Settings, call_sid: str, *, as_json: bool) -> None:
    async with open_bridge(settings) as bridge:
        if deleted_at := await deleted_since(bridge.readers, call_sid):
            raise UnknownCallError(
                f"{call_sid} is deleted since {deleted_at:%Y-%m-%d %H:%M}: "
                f"`session-bridge delete --undo {call_sid}` shows it again"
            )
        report = await call_report(bridge.readers, call_sid)
        if report is None and bridge.readers is not bridge.connections:
            # A replica follows a moment behind.
            report = await call_report(bridge.connections, call_sid)
        live = await _live(bridge, call_sid)
    if live is None and report is None:
        raise UnknownCallError(f"{call_sid} is neither live nor archived: look at its spelling")
    if as_json:
        archived = None if report is None else report.session | {"messages": _lines_as_json(report.messages)}
        print_json({"live": None if live is None else live.session, "archived": archived})
        return
    if live is not None:
        print_live(live)
    if report is not None:
        print_report(report)


async def _live(bridge: Bridge, call_sid: str) -> Preview | None:
    settings = bridge.settings
    async with redis_errors():
        try:
            fields = await bridge.redis.hgetall(bridge.keys.session(call_sid))  # type: ignore[misc]  # redis-py's own types
        except ResponseError:
            return None
    if not fields:
        return None
    if redaction := load_redaction(settings.redact):
        fields = redaction.fields(fields)
    understanding, outcome = understanding_of(settings), load_outcome(settings.outcome)
    limit = settings.max_field_bytes
    return preview(call_sid, fields, understanding, outcome, max_field_bytes=limit, requested=False)


def print_live(live: Preview) -> None:
    """A live session as it stands in Redis."""
    console.print(Text("live in Redis", style="bold yellow"))
    print_facts({name: live.session.get(name) for name in _FACTS})
    columns = EVENT_TABLES[Family.MESSAGE].columns
    lines = []
    for row in live.rows[EVENT_TABLES[Family.MESSAGE]]:
        cells = dict(zip(columns, row, strict=True))
        lines.append(_message_line(cells))
    print_transcript(lines)


def _message_line(cells: Mapping[str, Cell]) -> MessageLine:
    timestamp, start_ms, end_ms = cells["timestamp"], cells["start_ms"], cells["end_ms"]
    return MessageLine(
        int(str(cells["sequence"])),
        str(cells["role"]),
        str(cells["speaker"] or cells["role"]),
        str(cells["content"]),
        timestamp if isinstance(timestamp, datetime) else None,
        start_ms if isinstance(start_ms, float) else None,
        end_ms if isinstance(end_ms, float) else None,
    )


def print_report(report: CallReport) -> None:
    """An archived call: its facts and its transcript."""
    console.print(Text("archived", style="bold green"))
    print_facts({name: report.session[name] for name in _FACTS if name != "row_counts"})
    rows = sorted(report.session["row_counts"].items())
    print_table("rows", ("table", "rows"), rows)
    print_transcript(report.messages)


def print_transcript(messages: list[MessageLine]) -> None:
    """Who said what, when."""
    if not messages:
        return
    console.print(Text("transcript", style="bold"))
    width = max(len(line.speaker) for line in messages)
    for line in messages:
        style = _ROLE_STYLES.get(line.role, "")
        when = _clock(line)
        console.print(Text.assemble((f"{when:>9} ", "dim"), (line.speaker.ljust(width), style), "  ", line.content))


def _clock(line: MessageLine) -> str:
    if line.start_ms is not None:
        minutes, seconds = divmod(line.start_ms / 1000, 60)
        return f"{int(minutes)}:{seconds:04.1f}"
    return line.timestamp.strftime("%H:%M:%S") if line.timestamp else ""


def _lines_as_json(messages: list[MessageLine]) -> list[dict[str, Any]]:
    return [
        {
            "sequence": line.sequence,
            "role": line.role,
            "speaker": line.speaker,
            "content": line.content,
            "timestamp": line.timestamp,
            "start_ms": line.start_ms,
            "end_ms": line.end_ms,
        }
        for line in messages
    ]
