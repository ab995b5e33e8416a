"""One archived call as a person asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from session_bridge.archive.connection import ArchiveConnections, fetch


@dataclass(frozen=True, slots=True)
class MessageLine:
    """One message of a transcript."""

    sequence: int
    role: str
    speaker: str
    content: str
    timestamp: datetime | None
    start_ms: float | None
    end_ms: float | None


@dataclass(frozen=True, slots=True)
class CallReport:
    """The row of `call_sessions` by column name, and the messages in order."""

    session: dict[str, Any]
    messages: list[MessageLine]


async def call_report(connections: ArchiveConnections, call_sid: str) -> CallReport | None:
    """The latest archived call of this SID, or None."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "archived_call", call_sid=call_sid)
        if not rows:
            return None
        [[session]] = rows
        messages = await fetch(connection, "archived_messages", session_id=session["id"])
    return CallReport(session, [MessageLine(*row) for row in messages])


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened to a call, for a timeline."""

    at: datetime
    generation: int
    what: str
    detail: dict[str, Any]


_MOMENTS = ("started", "answered", "ended", "last activity", "first message", "last message")


async def timeline(connections: ArchiveConnections, call_sid: str) -> list[Moment]:
    """All that the archive knows of what happened to the calls of one SID, oldest first."""
    moments: list[Moment] = []
    async with connections.transaction() as connection:
        for [book] in await fetch(connection, "book_entry", call_sid=call_sid):
            generation, session_id = book["generation"], book["session_id"]
            seen = datetime.fromisoformat(book["first_seen_at"])
            state = {"state": book["state"], "drains": book["drains"], "session_id": session_id}
            moments.append(Moment(seen, generation, "entered in the book", state))
            for row in await fetch(connection, "call_moments", session_id=session_id):
                *times, rejects = row
                moments += [
                    Moment(at, generation, what, {}) for what, at in zip(_MOMENTS, times, strict=True) if at is not None
                ]
                if rejects:
                    moments[0].detail["rejects"] = rejects
        for generation, at, event, detail in await fetch(connection, "journal", call_sid=call_sid):
            moments.append(Moment(at, generation, event, detail))
        for dead_id, _, _, _, _, retried_at in await fetch(connection, "dead_of", call_sid=call_sid):
            if retried_at is not None:
                moments.append(Moment(retried_at, 0, "retried", {"dead_id": dead_id}))
    return sorted(moments, key=lambda moment: moment.at)
