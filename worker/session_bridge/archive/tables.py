"""The archive's tables as the worker writes them: columns in order, keys, and which of them are JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

from session_bridge.contract.fields import TEXT_FIELDS, Family
from session_bridge.contract.models import CHUNK_COLUMNS, MODELS

Cell: TypeAlias = str | int | float | bool | datetime | Decimal | None
Row: TypeAlias = tuple[Cell, ...]
"""One row, in the order of its table's columns; JSON, UUIDs and bytes as the text PostgreSQL reads.

Times are texts as well where the table says so, in the form of `contract.times.canonical_time`.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One table. There is one object of each, which is told from the others by being itself."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    json_columns: frozenset[str] = frozenset()
    time_columns: frozenset[str] = frozenset()
    """Times that a row has as text."""
    long_texts: bool = False
    """Whether a row is a few long texts rather than many short values."""


# What a drain knows, then what an event begins with: so a row is made of an event without taking it apart.
_HEAD, _EVENT_HEAD = ("session_id", "tenant_id"), ("event_id", "timestamp")
_EVENT_KEY = ("session_id", "event_id")
_TIMES = frozenset(("timestamp",))
_NAMES = {
    Family.MESSAGE: "call_messages",
    Family.TRANSITION: "call_transitions",
    Family.METRIC: "call_metrics",
    Family.RAG: "call_rag_retrievals",
    Family.EXTRACTION: "call_extracted_variables",
    Family.INTERRUPTION: "call_user_interruptions",
    Family.TOOL: "call_tool_calls",
    Family.PARTICIPANT: "call_participants",
    Family.COST: "call_cost_events",
    Family.RECORDING: "call_recordings",
}


def _event_table(family: Family) -> Table:
    model = MODELS[family]
    sequence = "query_sequence" if family is Family.RAG else "sequence"
    computed = ("duration_seconds",) if family is Family.PARTICIPANT else ()
    return Table(
        _NAMES[family],
        (*_HEAD, sequence, *_EVENT_HEAD, *model.columns, *computed, "extra"),
        _EVENT_KEY,
        model.json_columns | {"extra"},
        model.time_columns | _TIMES,
    )


EVENT_TABLES: Mapping[Family, Table] = {family: _event_table(family) for family in Family}

RAG_CHUNKS = Table(
    "call_rag_chunks",
    (*_HEAD, "chunk_rank", *_EVENT_HEAD, *CHUNK_COLUMNS, "content_hash", "extra"),
    (*_EVENT_KEY, "chunk_rank"),
    frozenset(("extra",)),
    _TIMES,
)
UNKNOWN_EVENTS = Table(
    "call_events",
    ("session_id", "family", "event_id", "tenant_id", "timestamp", "sequence", "payload"),
    ("session_id", "family", "event_id"),
    frozenset(("payload",)),
    _TIMES,
)
TRANSCRIPTS = Table(
    "call_transcripts",
    ("session_id", "tenant_id", "language", "transcript_text", "transcript_data", "transcript_history"),
    ("session_id",),
    frozenset(("transcript_data", "transcript_history")),
    long_texts=True,
)
COST_BREAKDOWNS = Table(
    "call_cost_breakdowns",
    (
        "session_id",
        "currency",
        "tenant_id",
        "by_service",
        "total_cost_cents",
        "reported_cents",
        "computed_cents",
        "computed",
    ),
    ("session_id", "currency"),
    frozenset(("by_service", "computed")),
)
ANALYSIS = Table(
    "call_analysis",
    (
        "session_id",
        "tenant_id",
        "sentiment",
        "sentiment_score",
        "topics",
        "keywords",
        "success",
        "summary",
        "data",
    ),
    ("session_id",),
    frozenset(("topics", "keywords", "data")),
)

SUMMARY_COLUMNS = (
    "duration_seconds",
    "total_turns",
    "total_messages",
    "total_user_messages",
    "total_assistant_messages",
    "total_transitions",
    "total_interruptions",
    "total_rag_retrievals",
    "total_rag_chunks",
    "total_extractions",
    "total_tool_calls",
    "avg_stt_delay_ms",
    "avg_llm_ttfb_ms",
    "avg_llm_processing_ms",
    "avg_tts_ttfb_ms",
    "avg_user_to_bot_latency_ms",
    "p95_user_to_bot_latency_ms",
    "max_user_to_bot_latency_ms",
    "avg_rag_processing_ms",
    "avg_extraction_ms",
    "total_prompt_tokens",
    "total_completion_tokens",
    "total_llm_tokens",
    "total_tts_characters",
    "total_cost_cents",
)
STATE_COLUMNS = (
    *TEXT_FIELDS,
    "status",
    "status_raw",
    "status_by",
    "status_sequence",
    "started_at",
    "answered_at",
    "ended_at",
    "last_activity_at",
    "recording_enabled",
    "recording_duration_seconds",
    "end_reason",
    "end_reason_raw",
    "estimated_cost_cents",
)
SESSION_DOCUMENTS = ("collected_data", "objections_encountered", "metadata")
SESSIONS = Table(
    "call_sessions",
    (
        "id",
        "call_sid",
        "generation",
        *STATE_COLUMNS,
        *SESSION_DOCUMENTS,
        "extra",
        "inferred",
        *SUMMARY_COLUMNS,
        "completeness",
        "row_counts",
        "content_digest",
        "drains",
        "first_archived_at",
        "archived_at",
    ),
    ("id",),
    frozenset((*SESSION_DOCUMENTS, "extra", "inferred", "row_counts")),
)

CHILDREN: tuple[Table, ...] = (
    TRANSCRIPTS,
    *EVENT_TABLES.values(),
    RAG_CHUNKS,
    UNKNOWN_EVENTS,
    COST_BREAKDOWNS,
    ANALYSIS,
)
"""Every table whose rows belong to one call and are shaped from it, in the order they are written."""
