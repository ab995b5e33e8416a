"""The one writer of calls: a batch of them, in one transaction."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias, TypeVar

import msgspec
import psycopg

from session_bridge.archive.book import Drained, advance, ask_to_advance, session_time
from session_bridge.archive.charges import Charge
from session_bridge.archive.connection import ArchiveConnections, Connection, run
from session_bridge.archive.copy import Copy, copy_all, copy_of
from session_bridge.archive.insert import insert_statement, json_text, merge_statement
from session_bridge.archive.journal import JOURNAL, Entry
from session_bridge.archive.sql import QUERIES
from session_bridge.archive.tables import CHILDREN, COST_BREAKDOWNS, RAG_CHUNKS, SESSIONS, Cell, Row, Table

_Item = TypeVar("_Item")
_PIECE_BYTES, _PIECE_ITEMS = 32 << 20, 10_000
_FEW_ROWS, _FEW_BYTES = 4_000, 4 << 20
# Rows of other tables stay: an event that was archived is part of the call for good.
_DROPS = {RAG_CHUNKS: "drop_chunks", COST_BREAKDOWNS: "drop_cost_breakdowns"}
_LANGUAGE = SESSIONS.columns.index("language")


@dataclass(slots=True)
class RejectedField:
    """One reject to be kept. `raw` is None where the value is fetched when it is written."""

    field: bytes
    raw: bytes | None
    size_bytes: int
    reason: str
    error: str


@dataclass(slots=True)
class WritableCall:
    """One call as the writer takes it.

    `merge` says that rows of it are archived already. `rows` are those that are not, `changed` those that may differ
    from what is, `gone` those that are archived and are no more. `size_bytes` is about how much memory all of it takes.
    """

    book: Drained
    journal: Entry
    session_row: Row
    rows: dict[Table, list[Row]]
    chunk_contents: dict[str, str]
    rejects: list[RejectedField] = field(default_factory=list)
    merge: bool = False
    changed: dict[Table, list[Row]] = field(default_factory=dict)
    gone: dict[Table, list[Row]] = field(default_factory=dict)
    drop_history: bool = False
    size_bytes: int = 0
    charge: Charge | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls to be written in one transaction, and their rows by table: new ones in one of two forms, and others."""

    calls: Sequence[WritableCall]
    copied: list[Copy]
    inserted: dict[Table, str]
    merged: dict[Table, str]


def batch_of(calls: Sequence[WritableCall]) -> Batch:
    """Make a batch of `calls`; what takes time here is better done while another one is being written.

    New rows are copied, which takes a round trip a table. A few rows are sooner inserted, all in one round trip.
    """
    new = {SESSIONS: [call.session_row for call in calls if not call.merge]}
    merged = {SESSIONS: [call.session_row for call in calls if call.merge]}
    for table in CHILDREN:
        new[table] = [row for call in calls for row in call.rows[table]]
        merged[table] = [row for call in calls if call.merge for row in call.changed[table]]
    new[JOURNAL] = [call.journal.row for call in calls]
    batch = Batch(calls, [], {}, {table: json_text(table, rows) for table, rows in merged.items() if rows})
    if sum(map(len, new.values())) <= _FEW_ROWS and sum(call.size_bytes for call in calls) <= _FEW_BYTES:
        # Of every table, also where there are none: so it is one statement for all batches, and prepared once.
        batch.inserted.update({table: json_text(table, rows) for table, rows in new.items()})
    else:
        batch.copied.extend(copy_of(table, rows) for table, rows in new.items() if rows)
    return batch


FetchField: TypeAlias = Callable[[str, bytes], Awaitable[bytes]]
"""Given a call SID and a field's name, the field's value: for fields too large to be held beside others."""
Settle: TypeAlias = Callable[[Connection, Sequence[Charge]], Awaitable[None]]
"""What is done with the written calls' charges: last in the transaction, so that what it locks is not held for long."""


async def write(
    connections: ArchiveConnections, batch: Batch, fetch_field: FetchField, settle: Settle | None = None
) -> set[str]:
    """Write `batch` in one transaction and return the SIDs that were written.

    The others met another drain of the same call and have to be read again. Raises DataRefusedError (nothing was
    written), TransactionTimeoutError or ArchiveUnavailableError; after the last two it is not known whether the
    transaction was committed, and writing it again is harmless.
    """
    archive_id = await connections.identity()
    if not batch.copied:
        # Nearly always all of them may be written: then it is one round trip to ask for that and to write.
        with contextlib.suppress(_NotAllAllowedError):
            async with connections.transaction() as connection:
                await _insert_if_allowed(connection, archive_id, batch)
                await _finish(connection, batch.calls, fetch_field, settle)
            return {call.book.call_sid for call in batch.calls}
    async with connections.transaction() as connection:
        allowed = await advance(connection, archive_id, [call.book for call in batch.calls])
        if len(allowed) < len(batch.calls):
            batch = batch_of([call for call in batch.calls if call.book.call_sid in allowed])
        if batch.copied:
            await copy_all(connection, batch.copied)
        if batch.inserted or batch.merged or any(call.gone for call in batch.calls):
            async with connection.pipeline():
                await _insert(connection, batch)
        if batch.copied:
            await _keep_contents(connection, batch.calls)
        await _finish(connection, batch.calls, fetch_field, settle)
    return allowed


class _NotAllAllowedError(Exception):
    """A call of the batch met another drain, or what was written with it was refused."""


async def _insert_if_allowed(connection: Connection, archive_id: str, batch: Batch) -> None:
    """Raises _NotAllAllowedError, with which the transaction has to end, unless every call may be written."""
    try:
        async with connection.pipeline():
            asked = await ask_to_advance(connection, archive_id, [call.book for call in batch.calls])
            await _insert(connection, batch)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        # Perhaps only because rows of another drain are there. If not, it is refused again.
        raise _NotAllAllowedError from error
    allowed, _ = await asked.answer()
    if len(allowed) < len(batch.calls):
        raise _NotAllAllowedError


async def _finish(
    connection: Connection, calls: Sequence[WritableCall], fetch_field: FetchField, settle: Settle | None
) -> None:
    await _keep_rejects(connection, calls, fetch_field)
    charges = [call.charge for call in calls if call.charge]
    if settle and charges:
        await settle(connection, charges)


async def _insert(connection: Connection, batch: Batch) -> None:
    """Insert and merge rows, in a pipeline that the caller has begun; with a few calls their chunk texts too."""
    if forms := [call.book.session_id for call in batch.calls if call.drop_history]:
        await run(connection, "drop_history", session_ids=forms)
    for table, name in _DROPS.items():
        if gone := [row for call in batch.calls for row in call.gone.get(table, ())]:
            key = {column: [row[table.columns.index(column)] for row in gone] for column in table.key}
            await run(connection, name, session_ids=[*{row[0] for row in gone}], **key)
    if batch.inserted:
        await _execute(connection, insert_statement(*batch.inserted), *batch.inserted.values())
    for table, text in batch.merged.items():
        await _execute(connection, merge_statement(table), text)
    if not batch.copied:
        await _keep(connection, [row for shelf in _shelves(batch.calls) for row in shelf.rows(shelf.contents)])


async def _execute(connection: Connection, statement: bytes, *texts: str) -> None:
    """Run a statement as the server takes it: the driver would look for placeholders in all its length each time."""
    await psycopg.AsyncRawCursor(connection).execute(statement, texts)


# -- what is shared between calls, or was not understood ------------------------------------------------------------


class _Content(msgspec.Struct, frozen=True):
    """A row of `rag_chunk_contents`."""

    month: date
    tenant_id: str
    content_hash: str
    content: str
    language: Cell


@dataclass(frozen=True, slots=True)
class _Shelf:
    """The distinct chunk texts of a month and tenant, each with its language, by their hashes."""

    month: date
    tenant_id: str
    contents: dict[str, tuple[str, Cell]] = field(default_factory=dict)

    @property
    def question(self) -> dict[str, object]:
        """The parameters of `missing_contents`."""
        return {"month": self.month, "tenant_id": self.tenant_id, "hashes": ",".join(self.contents)}

    def rows(self, hashes: Iterable[str]) -> list[_Content]:
        """Those of the texts that have these hashes, as `keep_contents` takes them."""
        return [_Content(self.month, self.tenant_id, digest, *self.contents[digest]) for digest in hashes]


def _shelves(calls: Sequence[WritableCall]) -> list[_Shelf]:
    """The chunk texts of these calls, in one order everywhere."""
    shelves: dict[tuple[date, str], _Shelf] = {}
    for call in calls:
        if call.chunk_contents:
            key = session_time(call.book.session_id).date().replace(day=1), call.book.tenant_id or ""
            shelf = shelves.setdefault(key, _Shelf(*key))
            # Nobody says in what language a chunk is: it is searched in that of the call that brought it first.
            language = call.session_row[_LANGUAGE]
            shelf.contents.update({digest: (content, language) for digest, content in call.chunk_contents.items()})
    return [shelf for _, shelf in sorted(shelves.items())]


async def _keep_contents(connection: Connection, calls: Sequence[WritableCall]) -> None:
    """Keep each distinct chunk text of a month and tenant once; only those not kept yet are sent."""
    shelves = _shelves(calls)
    async with connection.pipeline():
        asked = [await connection.execute(QUERIES["missing_contents"], shelf.question) for shelf in shelves]
    contents: list[_Content] = []
    for shelf, cursor in zip(shelves, asked, strict=True):
        contents += shelf.rows(content_hash for (content_hash,) in await cursor.fetchall())
    await _keep(connection, contents)


async def _keep(connection: Connection, contents: Sequence[_Content]) -> None:
    """Keep these texts, but for those that are kept already."""
    if contents:
        await run(connection, "keep_contents", contents=msgspec.json.encode(contents).decode())


async def _keep_rejects(connection: Connection, calls: Sequence[WritableCall], fetch_field: FetchField) -> None:
    held = [(call.book, reject) for call in calls for reject in call.rejects if reject.raw is not None]
    for piece in in_pieces(held, lambda one: one[1].size_bytes):
        await run(connection, "keep_rejects", **_reject_columns(piece))
    for call in calls:
        for reject in call.rejects:
            if reject.raw is None:
                raw = await fetch_field(call.book.call_sid, reject.field)
                whole = RejectedField(reject.field, raw, len(raw), reject.reason, reject.error)
                await run(connection, "keep_rejects", **_reject_columns([(call.book, whole)]))


def in_pieces(
    items: Iterable[_Item], size: Callable[[_Item], int], *, piece_bytes: int = _PIECE_BYTES
) -> Iterator[list[_Item]]:
    """`items` in pieces that one statement can carry: PostgreSQL takes no message of a gigabyte."""
    piece: list[_Item] = []
    total = 0
    for item in items:
        if piece and (total + size(item) > piece_bytes or len(piece) == _PIECE_ITEMS):
            yield piece
            piece, total = [], 0
        piece.append(item)
        total += size(item)
    if piece:
        yield piece


def reject_digest(field_name: bytes, raw: bytes) -> bytes:
    """What tells one reject of a call from another."""
    return hashlib.sha256(hashlib.sha256(field_name).digest() + raw).digest()


def _reject_columns(rejects: Sequence[tuple[Drained, RejectedField]]) -> dict[str, object]:
    return {
        "session_id": [book.session_id for book, _ in rejects],
        "digest": [reject_digest(reject.field, reject.raw or b"") for _, reject in rejects],
        "call_sid": [book.call_sid for book, _ in rejects],
        "tenant_id": [book.tenant_id for book, _ in rejects],
        "field": [reject.field.decode("utf-8", "replace").replace("\x00", "")[:1000] for _, reject in rejects],
        "reason": [reject.reason for _, reject in rejects],
        "error": [reject.error for _, reject in rejects],
        "size_bytes": [reject.size_bytes for _, reject in rejects],
        "field_raw": [reject.field for _, reject in rejects],
        "raw": [reject.raw for _, reject in rejects],
    }
