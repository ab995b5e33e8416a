"""Whether every byte of a live session is somewhere: in the archive, in a reject, or in a dead session."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import psycopg
from psycopg import sql

from session_bridge.archive.tables import CHILDREN, EVENT_TABLES, RAG_CHUNKS, UNKNOWN_EVENTS
from session_bridge.contract.fields import DEFAULT_IGNORE_FIELDS, DOCUMENTS, EVENT_FIELD, TRANSCRIPT_HISTORY, Family
from session_bridge.contract.models import CHUNK_KNOWN, MODELS
from session_bridge.contract.times import parse_time

_FAMILIES = {family.value: table.name for family, table in EVENT_TABLES.items()}
# What a table has of an event besides: its own id, which may look like a number.
_OURS = frozenset(("session_id", "event_id", "tenant_id", "sequence", "query_sequence", "chunk_rank"))
_ROW_TABLES = (*[table.name for table in CHILDREN if table is not RAG_CHUNKS], "call_rag_chunk_texts")
_BINARY = frozenset((b"", b"null", b"[]", b"{}", b'""'))
_UNITS = {"s": 1000.0}
_SHOWN = 120
_REJECTS = "SELECT call_sid, field_raw, raw FROM call_session_rejects WHERE call_sid = ANY(%s)"
_DEAD = (
    "SELECT call_sid, field_raw, raw FROM dead_session_fields JOIN dead_sessions ON id = dead_id "
    "WHERE call_sid = ANY(%s)"
)


@dataclass(slots=True)
class _Leaves:
    """What rows hold, in the ways a value may have been written."""

    texts: set[str] = field(default_factory=set)
    numbers: set[float] = field(default_factory=set)
    moments: set[datetime] = field(default_factory=set)
    truths: set[bool] = field(default_factory=set)

    def add(self, value: Any) -> None:  # noqa: ANN401  # any JSON
        if isinstance(value, dict):
            for name, inner in value.items():
                self.texts.add(name)
                self.add(inner)
        elif isinstance(value, list):
            for inner in value:
                self.add(inner)
        elif isinstance(value, bool):
            self.truths.add(value)
        elif isinstance(value, int | float):
            self.numbers.add(float(value) if abs(value) < 1e300 else value)  # noqa: PLR2004  # a larger int is no float
        elif isinstance(value, str):
            self.texts.add(value)
            if moment := _moment(value):
                self.moments.add(moment)

    def hold(self, leaf: str, *, is_number: bool) -> bool:
        if leaf in self.texts or leaf.strip() in self.texts or leaf.strip().lower() in self.texts:
            return True
        number = _number(leaf)
        if number is not None and self._near(number):
            return True
        if (moment := _moment(float(leaf) if is_number and number is not None else leaf)) and moment in self.moments:
            return True
        if is_number and number is not None and any(number == _number(text) for text in self.texts):
            return True
        words = {"1": True, "true": True, "yes": True, "t": True, "y": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "f": False, "n": False, "off": False}
        return words.get(leaf.strip().lower()) in self.truths

    def _near(self, number: float) -> bool:
        if number in self.numbers:
            return True
        # A price has ten places, and a latency in seconds is one in milliseconds.
        return any(abs(number - one) <= max(1e-10, abs(number) * 1e-14) for one in self.numbers) or any(
            number * factor in self.numbers for factor in _UNITS.values()
        )


@dataclass(slots=True)
class Kept:
    """What became of one session: its archived rows by table, and raw fields with the values kept of each."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    raw: dict[bytes, list[bytes]] = field(default_factory=dict)
    leaves: dict[bytes, _Leaves] = field(default_factory=dict)
    """What was found for each field."""
    _by_event: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def event(self, table: str, event_id: str) -> list[dict[str, Any]]:
        """The rows of one event."""
        if table not in self._by_event:
            events = self._by_event[table] = {}
            for row in self.rows.get(table, ()):
                events.setdefault(row["event_id"], []).append(row)
        return self._by_event[table].get(event_id, [])


def read_kept(connection: psycopg.Connection[Any], sids: Sequence[str]) -> dict[str, Kept]:
    """What is kept of these calls, all of it."""
    kept = {sid: Kept() for sid in sids}
    ids: dict[str, str] = {}
    for sid, session_id, row in connection.execute(
        "SELECT call_sid, id::text, to_jsonb(s) FROM call_sessions s WHERE call_sid = ANY(%s)", (list(sids),)
    ):
        ids[session_id] = sid
        kept[sid].rows.setdefault("call_sessions", []).append(row)
    for table in _ROW_TABLES:
        query = sql.SQL("SELECT session_id::text, to_jsonb(t) FROM {} t WHERE session_id = ANY(%s::uuid[])")
        for session_id, row in connection.execute(query.format(sql.Identifier(table)), (list(ids),)):
            kept[ids[session_id]].rows.setdefault(table, []).append(row)
    for query_text in (_REJECTS, _DEAD):
        for sid, name, raw in connection.execute(query_text, (list(sids),)):
            kept[sid].raw.setdefault(bytes(name), []).append(bytes(raw))
    return kept


def unaccounted(fields: Mapping[bytes, bytes], kept: Kept) -> Iterator[str]:
    """What is nowhere, field by field."""
    for name, raw in fields.items():
        if raw in kept.raw.get(name, ()) or _is_ignored(name) or raw.strip() in _BINARY:
            continue
        missing = [
            leaf for leaf, is_number in _leaves_of(name, raw) if not _is_kept(name, leaf, kept, is_number=is_number)
        ]
        if missing:
            yield f"{name!r} = {raw[:_SHOWN]!r}: {missing[0][:_SHOWN]!r} is nowhere"


def _is_ignored(name: bytes) -> bool:
    return any(fnmatchcase(name.decode("utf-8", "replace"), pattern) for pattern in DEFAULT_IGNORE_FIELDS)


def _is_kept(name: bytes, leaf: str, kept: Kept, *, is_number: bool) -> bool:
    leaves = kept.leaves.get(name)
    if leaves is None:
        leaves = kept.leaves[name] = _Leaves()
        for row in _rows_of(name, kept):
            ours = _OURS if "event_id" in row else frozenset[str]()
            leaves.add({column: value for column, value in row.items() if column not in ours})
    if leaves.hold(leaf, is_number=is_number):
        return True
    if name == TRANSCRIPT_HISTORY.encode():
        # Of the older transcript each item is judged, and one that is refused is kept by itself.
        items = [one for raw in kept.raw.get(name, ()) for one, _ in _leaves_of(name, raw)]
        return leaf in items
    return False


def _rows_of(name: bytes, kept: Kept) -> Iterator[dict[str, Any]]:
    """The rows in which a field may be."""
    text = name.decode("utf-8", "replace")
    family, colon, event_id = text.partition(":")
    if colon and family in _FAMILIES:
        tables = [_FAMILIES[family], "call_rag_chunk_texts"] if family == Family.RAG else [_FAMILIES[family]]
        for table in tables:
            yield from kept.event(table, event_id)
        return
    yield from (row for row in kept.rows.get("call_sessions", ()))
    if colon:
        yield from kept.event(UNKNOWN_EVENTS.name, event_id)
    if text == "analysis":
        yield from kept.rows.get("call_analysis", ())
    if text == TRANSCRIPT_HISTORY:
        for table in ("call_messages", "call_transcripts"):
            yield from kept.rows.get(table, ())


def _leaves_of(name: bytes, raw: bytes) -> Iterator[tuple[str, bool]]:
    """Every text, number and name in a value, as it is written there; with whether it is a number."""
    text = name.decode("utf-8", "replace")
    family, colon, _ = text.partition(":")
    if EVENT_FIELD.fullmatch(text) or text in DOCUMENTS:
        try:
            parsed = json.loads(
                raw,
                object_pairs_hook=_Pairs,
                parse_int=_Number,
                parse_float=_Number,
                parse_constant=_Number,
                strict=False,
            )
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, _Pairs) or (text in DOCUMENTS and parsed is not None):
            known: Collection[str] = MODELS[family].known if family in _FAMILIES else ()
            yield from _walk(parsed, ("role", "content", "text", "timestamp") if text == TRANSCRIPT_HISTORY else known)
            return
    # Not JSON, or not meant as such: a text, which is archived as it is.
    if text not in DOCUMENTS and not (colon and family in _FAMILIES):
        yield text, False
    yield raw.decode("utf-8", "replace"), bool(re.fullmatch(rb"\s*[-+0-9.eE]+\s*", raw))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, whole."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


def _walk(value: Any, known: Collection[str] = ()) -> Iterator[tuple[str, bool]]:  # noqa: ANN401  # any JSON
    """Leaves and names; of names in `known` a column tells."""
    if isinstance(value, _Pairs):
        for name, inner in value:
            if name not in known and inner not in (None, "", [], {}):
                yield name, False
            yield from _walk(inner, CHUNK_KNOWN if name == "chunks" and known else ())
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, known)
    elif isinstance(value, _Number):
        yield str(value), True
    elif isinstance(value, str) and value.strip():
        yield value, False


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _moment(value: object) -> datetime | None:
    try:
        return parse_time(value, UTC)
    except (ValueError, TypeError):
        return None
