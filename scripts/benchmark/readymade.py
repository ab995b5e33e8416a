"""Calls as bytes that only have to be sent: made beforehand by the bridge's own code, from the very same sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from benchmark.workload import LiveCall
from session_bridge.archive.book import session_time
from session_bridge.archive.copy import Copy, copy_of
from session_bridge.archive.journal import JOURNAL
from session_bridge.archive.tables import CHILDREN, SESSIONS, Row, Table
from session_bridge.archive.writer import WritableCall
from session_bridge.contract.ids import now
from session_bridge.drain.prepare import DrainRules, prepare, read
from session_bridge.live.snapshot import Claim, Queue, Snapshot

_BOOK = Table(
    "call_sids",
    (
        "call_sid",
        "generation",
        "session_id",
        "tenant_id",
        "state",
        "status",
        "drains",
        "started_at",
        "ended_at",
        "first_seen_at",
        "last_seen_at",
        "last_change_at",
        "last_activity_at",
        "archived_at",
    ),
    ("call_sid", "generation"),
)
_CONTENTS = Table(
    "rag_chunk_contents", ("month", "tenant_id", "content_hash", "content"), ("month", "tenant_id", "content_hash")
)


Batch = list[Copy]
"""One transaction."""


@dataclass(slots=True)
class ReadyMade:
    """Batches ready to be sent, the rows that each table will have of them, and their size."""

    batches: list[Batch] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0


def make_ready(calls: Sequence[LiveCall], batch_size: int, *, with_contents: bool = True) -> ReadyMade:
    """The batches of `calls`, under new session ids.

    A chunk text is sent once, with the first call that has it; or not at all, where the archive has them already.
    """
    ready = ReadyMade()
    kept: set[tuple[date, str, str]] = set()
    writables = [writable(call) for call in calls]
    for start in range(0, len(writables), batch_size):
        batch = _batch(writables[start : start + batch_size], kept if with_contents else None, ready.rows)
        ready.batches.append(batch)
        ready.size_bytes += sum(len(part.text) for part in batch)
    return ready


def writable(call: LiveCall) -> WritableCall:
    """A call as the bridge's writer takes it."""
    rules, moment = DrainRules(), now()
    snapshot = Snapshot(Claim(call.call_sid, Queue.READY, b"1", due_ms=1.0), dict(call.fields))
    return prepare(rules, read(rules, snapshot, []), None, moment).writable


def expected_rows(calls: Sequence[LiveCall]) -> Counter[str]:
    """The rows that each table has when these calls, and no others, are archived."""
    return make_ready(calls, len(calls)).rows


def _batch(writables: Sequence[WritableCall], kept: set[tuple[date, str, str]] | None, rows: Counter[str]) -> Batch:
    batch = [
        _part(_BOOK, [_book_row(writable) for writable in writables], rows),
        _part(SESSIONS, [writable.session_row for writable in writables], rows),
    ]
    children = {table: [row for writable in writables for row in writable.rows[table]] for table in CHILDREN}
    batch += [_part(table, lines, rows) for table, lines in children.items() if lines]
    batch.append(_part(JOURNAL, [writable.journal.row for writable in writables], rows))
    contents = [] if kept is None else _new_contents(writables, kept)
    if contents:
        batch.append(_part(_CONTENTS, contents, rows))
    return batch


def _part(table: Table, lines: Sequence[Row], rows: Counter[str]) -> Copy:
    rows[table.name] += len(lines)
    return copy_of(table, lines)


def _book_row(writable: WritableCall) -> Row:
    book = writable.book
    activity = book.last_activity_at
    return (
        *(book.call_sid, book.generation, book.session_id, book.tenant_id, book.state, book.status, 1),
        *(book.started_at, book.ended_at, book.at, book.at, book.at, activity, book.at),
    )


def _new_contents(writables: Sequence[WritableCall], kept: set[tuple[date, str, str]]) -> list[Row]:
    contents: list[Row] = []
    for writable in writables:
        month, tenant_id = _month(session_time(writable.book.session_id)), writable.book.tenant_id or ""
        for content_hash, content in writable.chunk_contents.items():
            key = (month, tenant_id, content_hash)
            if key not in kept:
                kept.add(key)
                contents.append((month.isoformat(), tenant_id, content_hash, content))
    return contents


def _month(moment: datetime) -> date:
    return moment.date().replace(day=1)
