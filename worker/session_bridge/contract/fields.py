"""What a live session's fields are called: state, documents, event families and their limits."""

from __future__ import annotations

import re
from enum import StrEnum

# -- state ----------------------------------------------------------------------------------------------------------

TEXT_FIELDS = (
    "provider",
    "account_sid",
    "parent_call_sid",
    "stream_sid",
    "room_name",
    "tenant_id",
    "agent_id",
    "agent_name",
    "agent_version",
    "persona_id",
    "user_id",
    "channel",
    "direction",
    "from_number",
    "to_number",
    "recording_sid",
    "recording_url",
    "initial_node",
    "final_node",
    "conversation_stage",
    "outcome",
    "error_message",
    "summary",
    "language",
    "payment_method",
    "payment_intent_id",
    "payment_status",
    "handoff_status",
    "finalize_reason",
    "finalized_by",
)
TIME_FIELDS = ("started_at", "answered_at", "ended_at", "last_activity_at")
STATUS_FIELDS = ("status", "status_by", "status_sequence", "end_reason", "end_reason_raw")
STATE_FIELDS = frozenset(
    (
        *TEXT_FIELDS,
        *TIME_FIELDS,
        *STATUS_FIELDS,
        "recording_enabled",
        "recording_duration_seconds",
        "estimated_cost_cents",
    )
)

# -- documents ------------------------------------------------------------------------------------------------------

TRANSCRIPT_HISTORY = "transcript_history"
OBJECT_DOCUMENTS = frozenset(("collected_data", "metadata", "analysis"))
ARRAY_DOCUMENTS = frozenset(("objections_encountered", TRANSCRIPT_HISTORY))
DOCUMENTS = OBJECT_DOCUMENTS | ARRAY_DOCUMENTS


# -- events ---------------------------------------------------------------------------------------------------------


class Family(StrEnum):
    """A kind of event; the part of a field's name before the colon."""

    MESSAGE = "message"
    TRANSITION = "transition"
    METRIC = "metric"
    RAG = "rag"
    EXTRACTION = "extraction"
    INTERRUPTION = "interruption"
    TOOL = "tool"
    PARTICIPANT = "participant"
    COST = "cost"
    RECORDING = "recording"


EVENT_FIELD = re.compile(r"([a-z][a-z0-9_]{0,31}):([A-Za-z0-9_.-]{1,64})")
"""The shape of an event's field, known family or not: group 1 the family, group 2 the event id."""

FAMILY_PREFIXES = tuple(f"{family}:" for family in Family)

# What tells a live session of ours from somebody else's hash under the same prefix. Documents but the transcript
# are left out on purpose: a web session may well keep a `metadata` of its own.
ADOPTING_FIELDS = (TRANSCRIPT_HISTORY, "provider", "stream_sid", "started_at")

# -- limits and defaults --------------------------------------------------------------------------------------------

DEFAULT_TTL_SECONDS = 3600
DEFAULT_GRACE_SECONDS = 15.0
DEFAULT_MAX_FIELD_BYTES = 8 * 1024 * 1024
DEFAULT_MAX_EVENTS = 200_000
# They are part of an index's key, which PostgreSQL limits; so is a currency.
INDEXED_IDS = frozenset(("tenant_id", "user_id", "agent_id"))
MAX_INDEXED_ID_LENGTH = 255
DEFAULT_IGNORE_FIELDS = ("audio_*", "*_buffer")


class FinalizedBy(StrEnum):
    """Who asked for the drain."""

    STOP = "stop"
    DISCONNECT = "disconnect"
    WEBHOOK = "webhook"
    SWEEP = "sweep"
    COMMAND = "command"
