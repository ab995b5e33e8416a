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
