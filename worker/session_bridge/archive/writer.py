"""The one writer of calls: a batch of them, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeAlias, TypeVar

from psycopg import sql
from pydantic import JsonValue
from pydantic_core import from_json, to_json

from session_bridge.archive.book import Drained, advance, session_time
from session_bridge.archive.charges import Charge
from session_bridge.archive.connection import ArchiveConnections, Connection, fetch, run
from session_bridge.archive.copy import copy_statement, copy_text
from session_bridge.archive.journal import JOURNAL, Entry
from session_bridge.archive.tables import CHILDREN, SESSIONS, Cell, Row, Table

_Item = TypeVar("_Item")
_PIECE_BYTES, _PIECE_ITEMS = 32 << 20, 10_000
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

    `merge` says that rows of it are archived already. `rows` are those that are not; `changed` are those that may
    differ from what is.
    """

    book: Drained
    journal: Entry
    session_row: Row
    rows: dict[Table, list[Row]]
    chunk_contents: dict[str, str]
    rejects: list[RejectedField] = field(default_factory=list)
    merge: bool = False
    changed: dict[Table, list[Row]] = field(default_factory=dict)
    drop_history: bool = False
    charge: Charge | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls to be written in one transaction, and their new rows as COPY takes them, by table."""

    calls: Sequence[WritableCall]
    texts: dict[Table, bytes]


def batch_of(calls: Sequence[WritableCall]) -> Batch:
    """Make a batch of `calls`; what takes time here is better done while another one is being written."""
    texts = {SESSIONS: copy_text(SESSIONS, [call.session_row for call in calls if not call.merge])}
    for table in CHILDREN:
        texts[table] = copy_text(table, [row for call in calls for row in call.rows[table]])
    return Batch(calls, texts)


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
    async with connections.transaction() as connection:
        allowed = await advance(connection, [call.book for call in batch.calls])
        if len(allowed) < len(batch.calls):
            batch = batch_of([call for call in batch.calls if call.book.call_sid in allowed])
        for table, text in batch.texts.items():
            await _copy(connection, table, text)
        await _merge(connection, [call for call in batch.calls if call.merge])
        await _copy(connection, JOURNAL, copy_text(JOURNAL, [call.journal.row for call in batch.calls]))
        await _keep_contents(connection, batch.calls)
        await _keep_rejects(connection, batch.calls, fetch_field)
        charges = [call.charge for call in batch.calls if call.charge]
        if settle and charges:
            await settle(connection, charges)
    return allowed


async def _copy(connection: Connection, table: Table, text: bytes) -> None:
    if text:
        async with connection.cursor() as cursor, cursor.copy(copy_statement(table)) as copy:
            await copy.write(text)


async def _merge(connection: Connection, calls: Sequence[WritableCall]) -> None:
    if forms := [call.book.session_id for call in calls if call.drop_history]:
        await run(connection, "drop_history", session_ids=forms)
    await _upsert(connection, SESSIONS, [call.session_row for call in calls])
    for table in CHILDREN:
        await _upsert(connection, table, [row for call in calls for row in call.changed[table]])


async def _upsert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows or bring them up to date; a row that is the same is not touched."""
    if not rows:
        return
    document = to_json([_document(table, row) for row in rows]).decode()
    await connection.execute(_UPSERTS[table], [document])


def _document(table: Table, row: Row) -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = {}
    for column, cell in zip(table.columns, row, strict=True):
        if cell is None:
            continue
        if column in table.json_columns and isinstance(cell, str):
            document[column] = from_json(cell)
        else:
            document[column] = cell if isinstance(cell, str | int | float) else str(cell)
    return document


def _upsert_statement(table: Table) -> sql.Composed:
    others = [column for column in table.columns if column not in table.key]
    names = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, %s::json) "
        "ON CONFLICT ({key}) DO UPDATE SET {assignments} WHERE ({ours}) IS DISTINCT FROM ({theirs})"
    ).format(
        table=sql.Identifier(table.name),
        names=names,
        key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
        assignments=sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in others
        ),
        ours=sql.SQL(", ").join(sql.Identifier(table.name, column) for column in others),
        theirs=sql.SQL(", ").join(sql.Identifier("excluded", column) for column in others),
    )


_UPSERTS = {table: _upsert_statement(table) for table in (SESSIONS, *CHILDREN)}


# -- what is shared between calls, or was not understood ------------------------------------------------------------


async def _keep_contents(connection: Connection, calls: Sequence[WritableCall]) -> None:
    """Keep each distinct chunk text of a month and tenant once; only those not kept yet are sent."""
    shelves: dict[tuple[date, str], dict[str, tuple[str, Cell]]] = {}
    for call in calls:
        if call.chunk_contents:
            month = session_time(call.book.session_id).date().replace(day=1)
            shelf = shelves.setdefault((month, call.book.tenant_id or ""), {})
            # Nobody says in what language a chunk is: it is searched in that of the call that brought it first.
            language = call.session_row[_LANGUAGE]
            shelf.update({content_hash: (content, language) for content_hash, content in call.chunk_contents.items()})
    for (month, tenant_id), contents in sorted(shelves.items()):
        hashes = ",".join(contents)
        missing = await fetch(connection, "missing_contents", month=month, tenant_id=tenant_id, hashes=hashes)
        if missing:
            wanted = sorted(content_hash for (content_hash,) in missing)
            texts, languages = zip(*[contents[content_hash] for content_hash in wanted], strict=True)
            kept = {"hashes": wanted, "contents": list(texts), "languages": list(languages)}
            await run(connection, "keep_contents", month=month, tenant_id=tenant_id, **kept)


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
