"""From the rows of an archived call back to a call, so that what comes late can join it, and what is new is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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


def call_of(archived: ArchivedCall) -> Call:
    """What the archive knows of a call; values that the bridge had only inferred are left out."""
    session = archived.session
    inferred = set(from_json(session["inferred"])) if session["inferred"] else set()
    call = Call(session["call_sid"])
    call.state = {name: session[name] for name in STATE_COLUMNS if session[name] is not None and name not in inferred}
    if call.state.get("status_by", "inferred") == "inferred" and call.state["status"] not in PROVISIONAL:
        # Nobody said it: it was concluded from a request, or there was none. From what is known now it will be again.
        call.state.pop("status_by", None)
        del call.state["status"]
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
    return call


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


@dataclass(slots=True)
class News:
    """The rows of one table that are not archived yet, those that may have changed, and those that are no more."""

    new: list[Row]
    changed: list[Row] = field(default_factory=list)
    gone: list[Row] = field(default_factory=list)


def news_of(table: Table, rows: Sequence[Row], archived: Sequence[Row]) -> News:
    """What `rows` say that the `archived` ones do not; a row that is archived just so is left out."""
    if not archived:
        return News(list(rows))
    key = itemgetter(*map(table.columns.index, table.key[1:]))
    known = {key(row): row for row in archived}
    news = News([])
    for row in rows:
        kept = known.pop(key(row), None)
        if kept is None:
            news.new.append(row)
        elif kept != row:
            news.changed.append(row)
    news.gone.extend(known.values())
    return news
