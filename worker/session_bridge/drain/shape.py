"""From a call to its rows in every table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from sys import float_info
from typing import cast

import msgspec
from msgspec.structs import astuple
from pydantic import JsonValue

from session_bridge.archive.tables import (
    ANALYSIS,
    CHILDREN,
    COST_BREAKDOWNS,
    EVENT_TABLES,
    RAG_CHUNKS,
    SESSION_DOCUMENTS,
    SESSIONS,
    STATE_COLUMNS,
    TRANSCRIPTS,
    UNKNOWN_EVENTS,
    Cell,
    Row,
    Table,
)
from session_bridge.contract.event import Event
from session_bridge.contract.fields import Family, FinalizedBy
from session_bridge.contract.rates import NO_RATES, RateBook, currency_of
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, Status
from session_bridge.drain.call import Call, UnknownEvent
from session_bridge.drain.order import in_order
from session_bridge.drain.outcome import CallFacts, OutcomeFunction
from session_bridge.drain.rates import cost_rows, costs_of, total_of
from session_bridge.drain.summary import summarize
from session_bridge.drain.understand import Understanding, history_events
from session_bridge.drain.values import clean_text, dump_json


@dataclass(frozen=True, slots=True)
class Identity:
    """Which record a call is: fixed by the book of call SIDs before the call is shaped."""

    session_id: str
    generation: int
    tenant_id: str | None
    drains: int
    first_archived_at: datetime
    archived_at: datetime
    rejects: int = 0
    """Rejects already archived."""


@dataclass(slots=True)
class ShapedCall:
    """A call's rows.

    `session` has the columns of `call_sessions` by name, `chunk_contents` the distinct chunk texts by their hash.
    """

    session: dict[str, Cell]
    rows: dict[Table, list[Row]]
    chunk_contents: dict[str, str] = field(default_factory=dict)

    @property
    def session_row(self) -> Row:
        """The row of `call_sessions`."""
        return tuple([self.session.get(column) for column in SESSIONS.columns])


def shape(
    call: Call,
    identity: Identity,
    understanding: Understanding,
    outcome: OutcomeFunction,
    rates: RateBook = NO_RATES,
) -> ShapedCall:
    """The rows of `call`, which is used up: its events are put in order."""
    for family, events in call.events.items():
        call.events[family] = in_order(events)
    messages = call.of(Family.MESSAGE) or history_events(understanding, call)
    head = (identity.session_id, identity.tenant_id)
    rows: dict[Table, list[Row]] = {TRANSCRIPTS: _transcript_rows(call, head, messages)}
    for family, table in EVENT_TABLES.items():
        rows[table] = _event_rows(family, head, messages if family is Family.MESSAGE else call.of(family))
    contents: dict[str, str] = {}
    rows[RAG_CHUNKS] = _chunk_rows(head, call.of(Family.RAG), contents)
    rows[UNKNOWN_EVENTS] = _unknown_rows(head, call.unknown_events)
    costs = costs_of(call, rates)
    rows[COST_BREAKDOWNS] = cost_rows(costs, head)
    rows[ANALYSIS] = _analysis_rows(call, head)

    summary = summarize(call, messages) | {"total_cost_cents": total_of(costs)}
    session = _session(call, identity, summary, outcome)
    counts = {table.name: len(rows[table]) for table in CHILDREN if rows[table]}
    session["row_counts"] = dump_json(cast("JsonValue", counts))
    session["content_digest"] = digest(call, messages)
    return ShapedCall(session, rows, contents)


def digest(call: Call, messages: list[Event]) -> str:
    """What tells whether a call's content is the same: the SHA-256 of what was said and of every event's id.

    It is over the events in their order, family by family, and so can be computed again from the archive.
    """
    total = hashlib.sha256()
    for family in Family:
        events = messages if family is Family.MESSAGE else call.of(family)
        parts = [family.value, *[event.event_id for event in events]]
        if family is Family.MESSAGE:
            parts += [f"{event.role}\x1f{event.content}" for event in events]
        total.update("\x1e".join(parts).encode())
    return total.hexdigest()


# -- the call itself ------------------------------------------------------------------------------------------------


def _session(call: Call, identity: Identity, summary: dict[str, Cell], outcome: OutcomeFunction) -> dict[str, Cell]:
    state, documents = call.state, call.documents
    session: dict[str, Cell] = {name: cast("Cell", state.get(name)) for name in STATE_COLUMNS}
    session.update(summary)
    session["id"] = identity.session_id
    session["call_sid"] = call.call_sid
    session["generation"] = identity.generation
    session["tenant_id"] = identity.tenant_id
    session["status"] = session["status"] or Status.IN_PROGRESS
    for name in SESSION_DOCUMENTS:
        session[name] = dump_json(documents[name]) if name in documents else None
    session["extra"] = dump_json(cast("JsonValue", call.extra)) if call.extra else None
    analysis = cast("dict[str, JsonValue]", documents.get("analysis", {}))
    _infer(call, session, "summary", _word(analysis.get("summary")))
    _infer(call, session, "initial_node", _edge_node(call, 0, "from_node_id", "to_node_id"))
    _infer(call, session, "final_node", _edge_node(call, -1, "to_node_id"))
    if session["outcome"] is None:
        decided = outcome(
            CallFacts(
                status=str(session["status"]),
                end_reason=cast("str | None", session["end_reason"]),
                conversation_stage=cast("str | None", session["conversation_stage"]),
                final_node=cast("str | None", session["final_node"]),
                handoff_status=cast("str | None", session["handoff_status"]),
                payment_status=cast("str | None", session["payment_status"]),
                collected_data=cast("dict[str, JsonValue]", documents.get("collected_data", {})),
                objections_encountered=cast("list[JsonValue]", documents.get("objections_encountered", [])),
                analysis=analysis,
                total_user_messages=cast("int", summary["total_user_messages"]),
                total_messages=cast("int", summary["total_messages"]),
            )
        )
        _infer(call, session, "outcome", clean_text(str(decided)) if decided else None)
    session["inferred"] = dump_json(list[JsonValue](sorted(call.inferred))) if call.inferred else None
    session["completeness"] = _completeness(call, identity, session)
    session["drains"] = identity.drains
    session["first_archived_at"] = identity.first_archived_at
    session["archived_at"] = identity.archived_at
    return session


def _infer(call: Call, session: dict[str, Cell], name: str, value: str | None) -> None:
    if session[name] is None and value is not None:
        session[name] = value
        call.inferred.add(name)


def _completeness(call: Call, identity: Identity, session: dict[str, Cell]) -> str:
    if (
        session["status"] not in TERMINAL | PROVISIONAL
        or session["status"] == Status.LOST
        or call.doubtful
        or identity.rejects
        or any(not reject.cleaned for reject in call.rejects)
        or session["started_at"] is None
        or _ends_before_start(session)
    ):
        return "partial"
    return "rescued" if session["finalized_by"] == FinalizedBy.SWEEP else "complete"


def _ends_before_start(session: dict[str, Cell]) -> bool:
    started, ended = session["started_at"], session["ended_at"]
    return isinstance(started, datetime) and isinstance(ended, datetime) and ended < started


def _edge_node(call: Call, place: int, *names: str) -> str | None:
    transitions = call.of(Family.TRANSITION)
    if not transitions:
        return None
    return next((node for name in names if (node := getattr(transitions[place], name))), None)


# -- its children ---------------------------------------------------------------------------------------------------


def _event_rows(family: Family, head: tuple[str, str | None], events: Sequence[Event]) -> list[Row]:
    """The rows of one family's events, which are in their order."""
    session_id, tenant_id = head
    numbered = enumerate(events, 1)
    if family is Family.PARTICIPANT:
        for event in events:
            event.duration_seconds = _seconds(event.joined_at, event.left_at)
    elif family is Family.COST:
        for event in events:
            event.currency = currency_of(event.currency)
    elif family is Family.RAG:
        # Without its chunks, which have rows of their own.
        return [(session_id, tenant_id, place, *astuple(event)[:-1]) for place, event in numbered]
    return [(session_id, tenant_id, place, *astuple(event)) for place, event in numbered]


def _seconds(joined: str | None, left: str | None) -> float | None:
    if joined is None or left is None or left < joined:
        return None
    return (datetime.fromisoformat(left) - datetime.fromisoformat(joined)).total_seconds()


def _chunk_rows(head: tuple[str, str | None], retrievals: Sequence[Event], contents: dict[str, str]) -> list[Row]:
    """The rows of the chunks of `retrievals`; their texts are put into `contents`, by their hash."""
    session_id, tenant_id = head
    rows: list[Row] = []
    for event in retrievals:
        for rank, chunk in enumerate(event.chunks or (), 1):
            content = chunk.content
            # A chunk read back from the archive may have its content's hash alone.
            if content is not None:
                chunk.content_hash = _known_hash(content) if len(content) <= _SHORT else _hash(content)
                contents[chunk.content_hash] = content
            rows.append((session_id, tenant_id, rank, event.event_id, event.timestamp, *astuple(chunk)[:-1]))
    return rows


# The same few chunks are retrieved again and again.
_SHORT = 4096


def _hash(content: str) -> str:
    return f"\\x{hashlib.sha256(content.encode()).hexdigest()}"


_known_hash = lru_cache(4096)(_hash)


def _unknown_rows(head: tuple[str, str | None], events: list[UnknownEvent]) -> list[Row]:
    session_id, tenant_id = head
    families: dict[str, list[UnknownEvent]] = {}
    for event in events:
        families.setdefault(event.family, []).append(event)
    return [
        (session_id, family, event.event_id, tenant_id, event.timestamp, sequence, event.payload)
        for family in sorted(families)
        for sequence, event in enumerate(in_order(families[family]), 1)
    ]


class _Said(msgspec.Struct, omit_defaults=True, gc=False):
    """A message in `transcript_data`; what is not known is left out."""

    sequence: int
    role: str
    content: str
    timestamp: str | None = None
    speaker: str | None = None
    start_ms: float | None = None
    end_ms: float | None = None
    turn_number: int | None = None
    node_id: str | None = None


def _transcript_rows(call: Call, head: tuple[str, str | None], messages: list[Event]) -> list[Row]:
    if not messages and not call.history:
        return []
    lines = [f"{event.speaker or event.role}: {event.content}" for event in messages]
    items = [
        _Said(
            place,
            event.role,
            event.content,
            event.timestamp,
            event.speaker,
            event.start_ms,
            event.end_ms,
            event.turn_number,
            event.node_id,
        )
        for place, event in enumerate(messages, 1)
    ]
    history = dump_json(cast("JsonValue", call.history)) if call.history else None
    language = cast("Cell", call.state.get("language"))
    return [(*head, language, "\n".join(lines), msgspec.json.encode(items).decode(), history)]


def _analysis_rows(call: Call, head: tuple[str, str | None]) -> list[Row]:
    analysis = cast("dict[str, JsonValue]", call.documents.get("analysis"))
    if not analysis:
        return []
    sentiment, score, success = analysis.get("sentiment"), analysis.get("sentiment_score"), analysis.get("success")
    lists = [dump_json(analysis[name]) if analysis.get(name) else None for name in ("topics", "keywords")]
    return [
        (
            *head,
            _word(sentiment),
            _score(score),
            *lists,
            success if isinstance(success, bool) else None,
            _word(analysis.get("summary")),
            dump_json(analysis),
        )
    ]


def _score(value: JsonValue) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= float_info.max else None  # type: ignore[arg-type]  # a number


def _word(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None
