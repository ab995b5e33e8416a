"""From the rows of an archived call back to a call, so that what comes late can join it, and what is new is told."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import cast

from pydantic import JsonValue
from pydantic_core import from_json

from session_bridge.archive.reader import ArchivedCall
from session_bridge.archive.tables import (
    EVENT_TABLES,
    RAG_CHUNKS,
    SESSION_DOCUMENTS,
    STATE_COLUMNS,
    UNKNOWN_EVENTS,
    Row,
    Table,
)
from session_bridge.contract.event import Columns, Event
from session_bridge.contract.fields import Family
from session_bridge.contract.models import MODELS, ChunkPart
from session_bridge.contract.vocabulary import PROVISIONAL
from session_bridge.drain.call import Call, UnknownEvent

HISTORY_ID = "history:"
# Where in a row of an event, or of a chunk, its own columns begin. `drain.shape` makes the rows so.
_EVENT, _CHUNK = 3, 5
_RETRIEVAL, _RANK, _HASH = map(RAG_CHUNKS.columns.index, ("event_id", "chunk_rank", "content_hash"))
_UNKNOWN = itemgetter(*map(UNKNOWN_EVENTS.columns.index, ("family", "event_id", "timestamp", "payload")))
_DOUBT = ('_at_raw"', 'timestamp_raw"')


def call_of(archived: ArchivedCall) -> Call:
    """What the archive knows of a call; values that the bridge had only inferred are left out."""
    session = archived.session
    inferred = set(from_json(session["inferred"])) if session["inferred"] else set()
    call = Call(session["call_sid"])
    call.state = {name: session[name] for name in STATE_COLUMNS if session[name] is not None and name not in inferred}
    if call.state.get("status_by") == "inferred" and call.state["status"] not in PROVISIONAL:
        # It was concluded from a request. If there is one now, it will be again; if not, the call lives.
        del call.state["status"], call.state["status_by"]
    if session["tenant_id"] is not None:
        call.state["tenant_id"] = session["tenant_id"]
    call.documents = {name: from_json(session[name]) for name in SESSION_DOCUMENTS if session[name]}
    if archived.analysis:
        call.documents["analysis"] = from_json(archived.analysis)
    if archived.history:
        call.history = cast("list[dict[str, JsonValue]]", from_json(archived.history))
    call.extra = from_json(session["extra"]) if session["extra"] else {}
    for family, table in EVENT_TABLES.items():
        if rows := archived.of(table):
            call.events[family] = _events(family, rows)
    if retrievals := call.of(Family.RAG):
        chunks = _chunks(archived)
        for event in retrievals:
            event.chunks = chunks.get(event.event_id, [])
    call.unknown_events = [UnknownEvent(*_UNKNOWN(row)) for row in archived.of(UNKNOWN_EVENTS)]
    call.doubtful = _doubts(session["extra"]) or any(
        _doubts(cast("str | None", row[-1])) for table in EVENT_TABLES.values() for row in archived.of(table)
    )
    return call


def _doubts(extra: str | None) -> bool:
    """Whether a time was kept as it came because it made no sense."""
    return extra is not None and any(mark in extra for mark in _DOUBT)


def _events(family: Family, rows: Sequence[Row]) -> list[Event]:
    event, names = MODELS[family].event, MODELS[family].event.__struct_fields__
    return [
        event(**dict(zip(names, row[_EVENT:], strict=False)))
        for row in rows
        # Messages made from transcript_history are made anew, from the whole of it.
        if not cast("str", row[_EVENT]).startswith(HISTORY_ID)
    ]


def _chunks(archived: ArchivedCall) -> dict[str, list[Columns]]:
    """The chunks of each retrieval, in the order of their ranks."""
    names = ChunkPart.__struct_fields__
    chunks: dict[str, list[Columns]] = {}
    for row in sorted(archived.of(RAG_CHUNKS), key=itemgetter(_RANK)):
        # Of a text that is not kept any more there is the hash alone.
        content = archived.contents.get(cast("str", row[_HASH]))
        chunk = ChunkPart(**dict(zip(names, (*row[_CHUNK:], content), strict=True)))
        chunks.setdefault(cast("str", row[_RETRIEVAL]), []).append(chunk)
    return chunks


def news_of(table: Table, rows: Sequence[Row], archived: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Of `rows` those that are not `archived`, and those that may have changed; the others are archived just so."""
    if not archived:
        return list(rows), []
    key = itemgetter(*map(table.columns.index, table.key[1:]))
    known = {key(row): row for row in archived}
    new: list[Row] = []
    changed: list[Row] = []
    for row in rows:
        kept = known.get(key(row))
        if kept is None:
            new.append(row)
        elif kept != row:
            changed.append(row)
    return new, changed
