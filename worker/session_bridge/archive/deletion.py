"""Calls that are hidden from readers, and are there all the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from session_bridge.archive.connection import ArchiveConnections, fetch, run


@dataclass(frozen=True, slots=True)
class DeletedCall:
    """One call that readers do not see."""

    call_sid: str
    session_id: str
    deleted_at: datetime
    reason: str | None


async def delete_call(connections: ArchiveConnections, call_sid: str, reason: str | None) -> bool:
    """Hide the archived calls of this SID; False if there is none that is not hidden already."""
    async with connections.transaction() as connection:
        return bool(await run(connection, "delete_call", call_sid=call_sid, reason=reason))


async def undelete_call(connections: ArchiveConnections, call_sid: str) -> bool:
    """Show the calls of this SID again; False if none was hidden."""
    async with connections.transaction() as connection:
        return bool(await run(connection, "undelete_call", call_sid=call_sid))


async def deleted_calls(connections: ArchiveConnections, limit: int = 1000) -> list[DeletedCall]:
    """The calls that are hidden, the latest first."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "list_deleted", limit=limit)
    return [DeletedCall(sid, str(session_id), at, reason) for sid, session_id, at, reason in rows]


async def deleted_since(connections: ArchiveConnections, call_sid: str) -> datetime | None:
    """Since when the latest call of this SID is hidden; None if it is not."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "deleted_at", call_sid=call_sid)
    return rows[0][0] if rows else None
