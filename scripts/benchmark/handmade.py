"""What a team writes without the bridge: a hash, `json.loads`, and the rows it comes to.

Nothing is checked, cleaned, merged or kept apart when it does not fit, and of the figures about a call only the
plainest are computed: what is compared with is less work than the bridge's, never more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from psycopg.types.json import Jsonb

from session_bridge.archive.journal import JOURNAL
from session_bridge.archive.tables import (
    CHILDREN,
    COST_BREAKDOWNS,
    EVENT_TABLES,
    RAG_CHUNKS,
    SESSIONS,
    TRANSCRIPTS,
)
from session_bridge.contract.fields import Family
from session_bridge.contract.ids import uuid7

Line: TypeAlias = dict[str, Any]
Lines: TypeAlias = dict[str, list[Line]]
"""Rows by table name; JSON columns hold what `json.loads` gave."""

CONTENTS = "rag_chunk_contents"
BOOK = "call_sids"
_JSON = {table.name: table.json_columns for table in (SESSIONS, *CHILDREN)} | {JOURNAL.name: frozenset(("detail",))}
_TIMES = ("started_at", "answered_at", "ended_at", "last_activity_at")
_DOCUMENTS = ("collected_data", "metadata")
_MONEY = ("amount_cents", "usage", "unit_price_cents")


def lines_of(call_sid: str, fields: Mapping[bytes, bytes]) -> Lines:
    """The rows of one call, table by table; `CONTENTS` has the distinct chunk texts, stored already or not."""
    state: Line = {}
    events: dict[Family, list[Line]] = {family: [] for family in Family}
    for raw_name, value in fields.items():
        name = raw_name.decode()
        family, colon, event_id = name.partition(":")
        if colon:
            events[Family(family)].append(json.loads(value) | {"event_id": event_id})
        elif name in _DOCUMENTS:
            state[name] = json.loads(value)
        elif name in _TIMES:
            state[name] = datetime.fromisoformat(value.decode())
        else:
            state[name] = value.decode()
    now = datetime.now(UTC)
    state["session_id"] = session_id = uuid7(state["started_at"])
    head = {"session_id": session_id, "tenant_id": state["tenant_id"]}
    lines: Lines = {}
    for family, found in events.items():
        found.sort(key=lambda event: (event["timestamp"], event["event_id"]))
        table = EVENT_TABLES[family]
        counted = "query_sequence" if family is Family.RAG else "sequence"
        lines[table.name] = [
            dict.fromkeys(table.columns) | _event(table.columns, event) | head | {counted: place}
            for place, event in enumerate(found, 1)
        ]
    lines[RAG_CHUNKS.name], lines[CONTENTS] = _chunks(events[Family.RAG], head, session_month(state["started_at"]))
    lines[TRANSCRIPTS.name] = [_transcript(events[Family.MESSAGE], head, state)]
    lines[COST_BREAKDOWNS.name] = _costs(events[Family.COST], head)
    lines[SESSIONS.name] = [_session(call_sid, state, events, lines, now)]
    lines[BOOK] = [_book(call_sid, state, now)]
    lines[JOURNAL.name] = [{"session_id": session_id, "at": now, "event": "archived", "detail": {"by": "hand"}}]
    return lines


def cells_of(table: str, line: Line) -> list[Any]:
    """A row as psycopg takes it."""
    documents = _JSON.get(table, ())
    return [Jsonb(value) if value is not None and name in documents else value for name, value in line.items()]


def session_month(moment: datetime) -> date:
    """The month in which a call's chunk texts are kept."""
    return moment.astimezone(UTC).date().replace(day=1)


def _event(columns: tuple[str, ...], event: Line) -> Line:
    line = {name: value for name, value in event.items() if name in columns}
    for name in ("timestamp", "joined_at", "left_at"):
        if line.get(name):
            line[name] = datetime.fromisoformat(line[name])
    for name in _MONEY:
        if line.get(name):
            line[name] = Decimal(line[name])
    return line


def _chunks(retrievals: list[Line], head: Line, month: date) -> tuple[list[Line], list[Line]]:
    chunks: list[Line] = []
    contents: dict[bytes, Line] = {}
    empty = dict.fromkeys(RAG_CHUNKS.columns)
    for event in retrievals:
        moment = datetime.fromisoformat(event["timestamp"])
        for rank, chunk in enumerate(event["chunks"], 1):
            digest = hashlib.sha256(chunk["content"].encode()).digest()
            key = {"month": month, "tenant_id": head["tenant_id"], "content_hash": digest}
            contents[digest] = key | {"content": chunk["content"]}
            line = {name: value for name, value in chunk.items() if name != "content"}
            own = {"event_id": event["event_id"], "timestamp": moment, "chunk_rank": rank, "content_hash": digest}
            chunks.append(empty | line | head | own)
    return chunks, [contents[digest] for digest in sorted(contents)]


def _transcript(messages: list[Line], head: Line, state: Line) -> Line:
    names = ("timestamp", "role", "content", "start_ms", "end_ms", "turn_number", "node_id")
    items = [
        {"sequence": place} | {name: message[name] for name in names if name in message}
        for place, message in enumerate(messages, 1)
    ]
    text = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
    more = {"language": state.get("language"), "transcript_text": text, "transcript_data": items}
    return head | more | {"transcript_history": None}


def _costs(costs: list[Line], head: Line) -> list[Line]:
    by_currency: dict[str, dict[str, Decimal]] = {}
    for cost in costs:
        services = by_currency.setdefault(cost["currency"], {})
        services[cost["service"]] = services.get(cost["service"], Decimal(0)) + Decimal(cost["amount_cents"])
    return [
        head
        | {
            "currency": currency,
            "by_service": {service: str(amount) for service, amount in services.items()},
            "total_cost_cents": sum(services.values(), Decimal(0)),
            "reported_cents": sum(services.values(), Decimal(0)),
            "computed_cents": None,
            "computed": None,
        }
        for currency, services in by_currency.items()
    ]


def _session(call_sid: str, state: Line, events: dict[Family, list[Line]], lines: Lines, now: datetime) -> Line:
    messages, metrics = events[Family.MESSAGE], events[Family.METRIC]
    values: dict[str, list[float]] = {}
    for metric in metrics:
        values.setdefault(metric["metric_type"], []).append(metric["value"])
    by_user = sum(message["role"] == "user" for message in messages)
    session: Line = dict.fromkeys(SESSIONS.columns)
    session.update((name, value) for name, value in state.items() if name in SESSIONS.columns)
    for name, metric_type in (("avg_stt_delay_ms", "stt_delay"), ("avg_llm_ttfb_ms", "llm_ttfb")):
        if metric_type in values:
            session[name] = sum(values[metric_type]) / len(values[metric_type])
    session.update(
        id=state["session_id"],
        call_sid=call_sid,
        generation=1,
        duration_seconds=(state["ended_at"] - state["started_at"]).total_seconds(),
        total_turns=len(messages),
        total_messages=len(messages),
        total_user_messages=by_user,
        total_assistant_messages=len(messages) - by_user,
        total_transitions=len(events[Family.TRANSITION]),
        total_interruptions=len(events[Family.INTERRUPTION]),
        total_rag_retrievals=len(events[Family.RAG]),
        total_rag_chunks=len(lines[RAG_CHUNKS.name]),
        total_extractions=len(events[Family.EXTRACTION]),
        total_tool_calls=len(events[Family.TOOL]),
        completeness="complete",
        row_counts={name: len(found) for name, found in lines.items() if found and name != CONTENTS},
        content_digest=hashlib.sha256("\n".join(message["content"] for message in messages).encode()).hexdigest(),
        drains=1,
        first_archived_at=now,
        archived_at=now,
    )
    return session


def _book(call_sid: str, state: Line, now: datetime) -> Line:
    return {
        "call_sid": call_sid,
        "generation": 1,
        "session_id": state["session_id"],
        "tenant_id": state["tenant_id"],
        "state": "archived",
        "status": state["status"],
        "drains": 1,
        "started_at": state["started_at"],
        "ended_at": state["ended_at"],
        "first_seen_at": now,
        "last_seen_at": now,
        "last_change_at": now,
        "last_activity_at": state["last_activity_at"],
        "archived_at": now,
    }
