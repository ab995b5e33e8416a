"""Dead sessions: kept raw, shown, and given back on command."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from session_bridge.archive.book import tombstones
from session_bridge.archive.connection import ArchiveConnections, Connection, fetch, run
from session_bridge.archive.sql import QUERIES
from session_bridge.archive.writer import in_pieces

FetchFields: TypeAlias = Callable[[Sequence[bytes]], Awaitable[list[bytes]]]
_FETCHED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class DeadSession:
    """A session that could not be archived."""

    id: int
    call_sid: str
    tenant_id: str | None
    reason: str
    error: str
    attempts: int
    fields: int
    size_bytes: int
    died_at: datetime
    retried_at: datetime | None


async def bury(
    connections: ArchiveConnections,
    *,
    call_sid: str,
    session_id: str,
    generation: int,
    tenant_id: str | None,
    reason: str,
    error: str,
    attempts: int,
    fields: Mapping[bytes, bytes],
    oversize: Mapping[bytes, int],
    fetch_fields: FetchFields,
    at: datetime,
    known: bool,
) -> int | None:
    """Keep every field of a session raw, note in the book that it is dead, and return the dead session's id.

    Those of `oversize` (name and size in bytes) are fetched in pieces, so that none but the largest has to be held.
    `known` says that the book had the call when it was looked up. None if it was retired since then: then nothing of
    it is kept.
    """
    archive_id = await connections.identity()
    async with connections.transaction() as connection:
        # First, as with every drain: an erasure that runs beside this waits for the entry, or is seen here.
        entry: dict[str, object] = {"call_sid": call_sid, "session_id": session_id}
        entry |= {"generation": generation, "tenant_id": tenant_id}
        if not await _mark(connection, archive_id, entry, at, known=known):
            return None
        [[dead_id]] = await fetch(
            connection,
            "enter_dead",
            call_sid=call_sid,
            session_id=session_id,
            tenant_id=tenant_id,
            reason=reason,
            error=error,
            attempts=attempts,
            fields=len(fields) + len(oversize),
            size_bytes=sum(map(len, fields.values())) + sum(oversize.values()),
        )
        for piece in in_pieces(fields.items(), lambda field: len(field[1])):
            await run(connection, "keep_dead_fields", **_columns(dead_id, piece))
        for some in in_pieces(oversize.items(), lambda field: field[1], piece_bytes=_FETCHED_BYTES):
            names = [name for name, _ in some]
            found = zip(names, await fetch_fields(names), strict=True)
            await run(connection, "keep_dead_fields", **_columns(dead_id, list(found)))
        await run(connection, "forget_dead_before", call_sid=call_sid, dead_id=dead_id)
    return int(dead_id)


async def _mark(
    connection: Connection, archive_id: str, entry: dict[str, object], at: datetime, *, known: bool
) -> bool:
    """Note in the book that a call is dead; False if it was retired since it was looked up."""
    if known:
        return bool(await fetch(connection, "mark_dead", at=at, **entry))
    if not await fetch(connection, "enter_dead_call", at=at, **entry):
        return False
    # A stone that is older was there when the call was looked up.
    recently = at - timedelta(hours=1)
    stones = await fetch(connection, "retired_meanwhile", tombstones=tombstones(archive_id, [str(entry["call_sid"])]))
    if any(ended_at is not None and recently <= ended_at for _, ended_at in stones):
        await run(connection, "take_back", call_sid=[entry["call_sid"]], generation=[entry["generation"]])
        return False
    return True


def _columns(dead_id: int, fields: Sequence[tuple[bytes, bytes]]) -> dict[str, object]:
    return {
        "dead_id": dead_id,
        "digest": [hashlib.sha256(name).digest() for name, _ in fields],
        "field_raw": [name for name, _ in fields],
        "raw": [raw for _, raw in fields],
    }


async def list_dead(
    connections: ArchiveConnections, *, dead_id: int | None = None, retried: bool = False, limit: int = 100
) -> list[DeadSession]:
    """Dead sessions, the latest first; with `retried`, also those that were given back."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "list_dead", id=dead_id, all=retried, limit=limit)
    return [DeadSession(*row) for row in rows]


async def dead_fields(connections: ArchiveConnections, dead_id: int) -> AsyncIterator[tuple[bytes, bytes]]:
    """The fields of a dead session, raw, one after the other."""
    async with connections.transaction() as connection, connection.cursor("dead_fields") as cursor:
        await cursor.execute(QUERIES["dead_fields"], {"id": dead_id})
        async for name, raw in cursor:
            yield bytes(name), bytes(raw)


async def mark_retried(connections: ArchiveConnections, dead: DeadSession) -> None:
    """Note that a dead session was given back to Redis."""
    async with connections.transaction() as connection:
        await run(connection, "dead_retried", id=dead.id)
        await run(connection, "revive", call_sid=dead.call_sid)
