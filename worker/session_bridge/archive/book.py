"""The book of call SIDs: which record a SID means, and where it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

import msgspec

from session_bridge.archive.connection import SHORT_WAIT, ArchiveConnections, Connection, Cursor, fetch, run
from session_bridge.archive.sql import QUERIES
from session_bridge.contract.ids import uuid7
from session_bridge.contract.times import parse_time

_EARLIEST = timedelta(days=35)
_LATEST = timedelta(days=1)

RETIRED = "retired"
"""The state of a call that retention or an erasure took; most of them are tombstones, without a call SID."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a call SID, as the book has it."""

    call_sid: str
    generation: int
    session_id: str
    tenant_id: str | None
    state: str
    drains: int
    started_at: datetime | None
    ended_at: datetime | None
    first_seen_at: datetime
    last_seen_at: datetime


async def look_up(connections: ArchiveConnections, call_sids: Sequence[str]) -> dict[str, list[Record]]:
    """The records of each call SID that has any, the latest first."""
    stones = tombstones(await connections.identity(), call_sids)
    names = dict(zip(stones, call_sids, strict=True))
    book: dict[str, list[Record]] = {}
    retired: list[Record] = []
    for name, generation, session_id, *rest in await connections.ask("look_up", names=[*call_sids, *stones]):
        record = Record(names.get(name, name), generation, str(session_id), *rest)
        if name in names:
            retired.append(record)
        else:
            book.setdefault(name, []).append(record)
    for record in retired:
        # It is older than any that has the call SID itself.
        book.setdefault(record.call_sid, []).append(record)
    return book


def tombstones(archive_id: str, call_sids: Sequence[str]) -> list[str]:
    """Under which name each of these call SIDs stands once it is retired, as `tombstone_of` in the schema says it."""
    # What is no text has no tombstone.
    texts = [f"{archive_id} {sid}".encode(errors="replace") for sid in call_sids]
    return [f"retired:{hashlib.sha256(text).hexdigest()}" for text in texts]


def new_session_id(started_at: datetime | None, seen_at: datetime) -> str:
    """A session id whose time is the call's start, or when it was first seen if the start cannot be believed."""
    if started_at is None or not seen_at - _EARLIEST <= started_at <= seen_at + _LATEST:
        started_at = seen_at
    return str(uuid7(started_at))


def session_time(session_id: str) -> datetime:
    """The moment that a session id carries."""
    return parse_time(UUID(session_id).int >> 80)


@dataclass(slots=True)
class Drained:
    """What the book is told about one drained call; `expected_drains` is None for a record it does not have yet."""

    call_sid: str
    generation: int
    session_id: str
    tenant_id: str | None
    state: str
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    last_activity_at: datetime | None
    at: datetime
    expected_drains: int | None


async def advance(connection: Connection, archive_id: str, drained: Sequence[Drained]) -> set[str]:
    """Lock these calls in the book and count a drain of each; returns the SIDs that may be written.

    A SID is left out if another drain of it was committed, or it was entered or retired, since it was looked up: what
    was read of it may be older than what is archived, and has to be read again. All statements go out in one round
    trip.
    """
    async with connection.pipeline():
        asked = await ask_to_advance(connection, archive_id, drained)
        allowed, gone = await asked.answer()
        if gone:
            await connection.execute(QUERIES["take_back"], _columns(gone))
    return allowed


async def ask_to_advance(connection: Connection, archive_id: str, drained: Sequence[Drained]) -> Advance:
    """The same in a pipeline that the caller has begun, and without waiting for the answer."""
    new = [entry for entry in drained if entry.expected_drains is None]
    known = [entry for entry in drained if entry.expected_drains is not None]
    counted = []
    if new:
        calls = {"calls": msgspec.json.encode(new).decode()}
        counted.append(await connection.execute(QUERIES["enter_drained"], calls))
    if known:
        columns = _columns(known) | {"drains": [entry.expected_drains for entry in known]}
        await connection.execute(QUERIES["lock"], columns)
        counted.append(await connection.execute(QUERIES["advance"], columns))
    entered = dict(zip(tombstones(archive_id, [entry.call_sid for entry in new]), new, strict=True))
    retired = await connection.execute(QUERIES["retired_meanwhile"], {"tombstones": [*entered]}) if new else None
    return Advance(counted, entered, retired)


@dataclass(frozen=True, slots=True)
class Advance:
    """What the book was asked before calls are written; `entered` are those new to it, by their tombstones."""

    counted: Sequence[Cursor]
    entered: Mapping[str, Drained]
    retired: Cursor | None

    async def answer(self) -> tuple[set[str], list[Drained]]:
        """The SIDs that may be written, and entries that are to be taken back: somebody has retired these calls."""
        allowed = {cast("str", row[0]) for cursor in self.counted for row in await cursor.fetchall()}
        gone: dict[str, Drained] = {}
        for name, ended_at in await self.retired.fetchall() if self.retired else ():
            entry = self.entered[name]
            if entry.call_sid in allowed and (entry.started_at is None or (ended_at and entry.started_at <= ended_at)):
                gone[name] = entry
        return allowed - {entry.call_sid for entry in gone.values()}, [*gone.values()]


async def not_released(connections: ArchiveConnections, drained: Sequence[Drained]) -> None:
    """Note that these calls, archived as ended, live on: their requests were taken back."""
    columns = _columns(drained) | {"drains": [(entry.expected_drains or 0) + 1 for entry in drained]}
    async with connections.transaction() as connection:
        await run(connection, "not_released", **columns)


def _columns(drained: Sequence[Drained]) -> dict[str, list[object]]:
    names = (
        "call_sid",
        "generation",
        "session_id",
        "tenant_id",
        "state",
        "status",
        "started_at",
        "ended_at",
        "last_activity_at",
        "at",
    )
    return {name: [getattr(entry, name) for entry in drained] for name in names}


# -- what the sweep sees --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the book knows of a call SID that the sweep has met: its latest record."""

    call_sid: str
    generation: int
    state: str
    status: str | None
    first_seen_at: datetime
    last_change_at: datetime
    checkpointed_at: datetime | None
    ended_at: datetime | None
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """A live session as the sweep has just seen it; `generation` is None for one that the book does not know."""

    call_sid: str
    generation: int | None
    started_at: datetime | None
    changed_at: datetime
    fingerprint: str | None


async def sightings(connections: ArchiveConnections, call_sids: Sequence[str]) -> dict[str, Sighting]:
    """The latest record of each of these call SIDs that has one."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "seen_before", call_sids=list(call_sids))
    return {row[0]: Sighting(*row) for row in rows}


async def note_seen(connections: ArchiveConnections, seen: Sequence[Seen], at: datetime) -> None:
    """Enter or bring up to date what the sweep saw, at the moment `at`.

    A drain that enters one of them at this moment is waited for, but not long: then LockedError is raised.
    """
    new = [one for one in seen if one.generation is None]
    known = [one for one in seen if one.generation is not None]
    async with connections.transaction() as connection:
        if new:
            await connection.execute(SHORT_WAIT)
            ids = [new_session_id(one.started_at, at) for one in new]
            started = [one.started_at for one in new]
            await run(connection, "enter_live", session_id=ids, started_at=started, **_seen_columns(new, at))
        if known:
            generations = [one.generation for one in known]
            await run(connection, "note_seen", generation=generations, **_seen_columns(known, at))


def _seen_columns(seen: Sequence[Seen], at: datetime) -> dict[str, object]:
    return {
        "call_sid": [one.call_sid for one in seen],
        "at": [at] * len(seen),
        "changed_at": [one.changed_at for one in seen],
        "fingerprint": [one.fingerprint for one in seen],
    }


async def not_seen_since(connections: ArchiveConnections, since: datetime, limit: int) -> list[str]:
    """Call SIDs believed alive that no sweep has met since that moment, those missed longest first."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "not_seen_since", since=since, limit=limit)
    return [cast("str", row[0]) for row in rows]


async def states(connections: ArchiveConnections) -> dict[str, int]:
    """How many call SIDs stand where, each by its latest call."""
    async with connections.transaction() as connection:
        return dict(await fetch(connection, "book_states"))


async def standing(connections: ArchiveConnections, call_sids: Sequence[str]) -> dict[str, str]:
    """Where each of these call SIDs stands, by its latest call; those the book does not know are left out."""
    async with connections.transaction() as connection:
        return {row[0]: row[2] for row in await fetch(connection, "seen_before", call_sids=list(call_sids))}


async def unsettled(connections: ArchiveConnections, after: str, limit: int) -> list[str]:
    """The next call SIDs, in their order, that the book believes alive."""
    async with connections.transaction() as connection:
        return [row[0] for row in await fetch(connection, "unsettled", after=after, limit=limit)]
