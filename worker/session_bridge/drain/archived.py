"""From the rows of an archived call back to a call, so that what comes late can join it, and what is new is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import JsonValue
from pydantic_core import from_json

from session_bridge.archive.reader import ArchivedCall
from session_bridge.archive.tables import EVENT_TABLES, RAG_CHUNKS, SESSION_DOCUMENTS, STATE_COLUMNS, Row, Table
from session_bridge.contract.event import Columns, Event
from session_bridge.contract.fields import Family
from session_bridge.contract.models import CHUNK_COLUMNS, MODELS, ChunkPart
from session_bridge.contract.vocabulary import PROVISIONAL
from session_bridge.drain.call import Call, UnknownEvent
from session_bridge.drain.shape import chunk_rows, event_rows

HISTORY_ID = "history:"
# Which column of every table of events is their place among the others of their family.
_PLACE = 2
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
    call.events = {family: _events(family, rows, archived) for family, rows in archived.events.items()}
    call.unknown_events = [
        UnknownEvent(row["family"], row["event_id"], _stamp(row), row["payload"]) for row in archived.unknown_events
    ]
    call.doubtful = _doubts(session["extra"]) or any(
        _doubts(row["extra"]) for rows in archived.events.values() for row in rows
    )
    return call


def _doubts(extra: str | None) -> bool:
    """Whether a time was kept as it came because it made no sense."""
    return extra is not None and any(mark in extra for mark in _DOUBT)


def _events(family: Family, rows: list[dict[str, Any]], archived: ArchivedCall) -> list[Event]:
    model = MODELS[family]
    events = []
    for row in rows:
        # Messages made from transcript_history are made anew, from the whole of it.
        if row["event_id"].startswith(HISTORY_ID):
            continue
        data = {name: row[name] for name in (*model.columns, "extra")}
        for name in model.time_columns:
            data[name] = row[name].isoformat() if row[name] else None
        if family is Family.RAG:
            data["chunks"] = [_chunk(chunk) for chunk in archived.chunks.get(row["event_id"], ())]
        events.append(model.event(event_id=row["event_id"], timestamp=_stamp(row), **data))
    return events


def _stamp(row: dict[str, Any]) -> str | None:
    return row["timestamp"].isoformat() if row["timestamp"] else None


def _chunk(row: dict[str, Any]) -> Columns:
    content_hash = None if row["content_hash"] is None else f"\\x{row['content_hash'].hex()}"
    return ChunkPart(**{name: row[name] for name in (*CHUNK_COLUMNS, "content", "extra")}, content_hash=content_hash)


@dataclass(slots=True)
class Known:
    """The rows of events that are archived, as a drain would write them, and their keys, by table."""

    rows: dict[Table, set[Row]]
    keys: dict[Table, set[tuple[object, ...]]]

    def sort(self, table: Table, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Of `rows` those that are new, and those that may have changed; what is archived just so is left out."""
        known, keys = self.rows[table], self.keys[table]
        places = [table.columns.index(column) for column in table.key[1:]]
        new: list[Row] = []
        changed: list[Row] = []
        for row in rows:
            if row not in known:
                (changed if tuple([row[place] for place in places]) in keys else new).append(row)
        return new, changed


def known_of(archived: ArchivedCall, call: Call) -> Known:
    """What the archive has of the events of a call; `call` is `call_of` the same, and not used up yet."""
    head = (str(archived.session["id"]), archived.session["tenant_id"])
    known = Known({}, {})
    for family, table in EVENT_TABLES.items():
        found = archived.events.get(family, [])
        places = {row["event_id"]: row[table.columns[_PLACE]] for row in found}
        events = call.of(family)
        rows = event_rows(family, head, events, [places[event.event_id] for event in events])
        known.rows[table] = set(rows)
        known.keys[table] = {(event_id,) for event_id in places}
    known.rows[RAG_CHUNKS] = set(chunk_rows(head, call.of(Family.RAG), {}))
    known.keys[RAG_CHUNKS] = {
        (event_id, chunk["chunk_rank"]) for event_id, chunks in archived.chunks.items() for chunk in chunks
    }
    return known
