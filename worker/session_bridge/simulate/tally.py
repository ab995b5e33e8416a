"""Reads back what the archive has of the calls that were played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from psycopg import sql

from session_bridge.archive.connection import Connection, fetch
from session_bridge.archive.tables import CHILDREN, SESSIONS
from session_bridge.simulate.call import SimulatedCall
from session_bridge.simulate.watch import Arrival

_REJECTS = "call_session_rejects"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A line of a transcript; `start_ms` is where it begins in the call, if that is known."""

    speaker: str
    text: str
    start_ms: float | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """One call as the archive has it, to be read by a person."""

    call_sid: str
    scenario: str
    language: str
    outcome: str | None
    summary: str | None
    duration_seconds: float | None
    lines: tuple[Utterance, ...]


async def rows_by_table(connection: Connection, session_ids: Sequence[str]) -> dict[str, int]:
    """How many rows each table has of these sessions; tables that have none are left out."""
    tables = [(SESSIONS.name, "id"), *((table.name, "session_id") for table in CHILDREN), (_REJECTS, "session_id")]
    counts = [
        sql.SQL("SELECT {}, count(*) FROM {} WHERE {} = ANY(%(ids)s)").format(
            sql.Literal(name), sql.Identifier(name), sql.Identifier(key)
        )
        for name, key in tables
    ]
    statement = sql.SQL(" UNION ALL ").join(counts)
    rows = await (await connection.execute(statement, {"ids": list(session_ids)})).fetchall()
    return {name: count for name, count in cast("list[tuple[str, int]]", rows) if count}


async def transcript_of(connection: Connection, call: SimulatedCall, arrival: Arrival) -> Transcript:
    """The transcript of a call that has arrived."""
    [[found]] = await fetch(connection, "archived_call", call_sid=call.call_sid)
    session = cast("Mapping[str, Any]", found)
    lines = await fetch(connection, "archived_messages", session_id=arrival.record.session_id)
    return Transcript(
        call_sid=call.call_sid,
        scenario=call.scenario,
        language=call.language,
        outcome=session["outcome"],
        summary=session["summary"],
        duration_seconds=session["duration_seconds"],
        lines=tuple(Utterance(speaker, content, start_ms) for _, _, speaker, content, _, start_ms, *_ in lines),
    )
