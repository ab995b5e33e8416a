"""What one event of each family looks like: the JSON object under `<family>:<event_id>`.

The models are typed dictionaries, validated by pydantic in its lax mode: `"12"` is a number where a number is meant,
for writers in every language have their own idea of JSON. A field that no model names is kept beside the others.
The names and families are those of the contract; each field is a column of the family's table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal, Required

from msgspec.json import Decoder
from pydantic import AfterValidator, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter
from pydantic_core import SchemaValidator
from typing_extensions import TypedDict

from session_bridge.contract.event import Columns, Event, class_of, part_class
from session_bridge.contract.fields import Family

_KEEP_UNKNOWN = ConfigDict(extra="allow", coerce_numbers_to_str=True)

Int = Annotated[int, Field(ge=-(2**31), lt=2**31)]
BigInt = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Float = Annotated[float, Field(allow_inf_nan=False)]


def as_money(number: Decimal) -> Decimal:
    """`number` as a column of type numeric(24, 10) keeps it; raises ValueError if it cannot."""
    # Not `abs`, which overflows where the exponent is beyond a million.
    if not (number.is_finite() and number.copy_abs() < _WIDEST_MONEY and len(number.as_tuple().digits) <= _MOST_DIGITS):
        raise ValueError("the number is too large")
    return number.quantize(_SMALLEST_MONEY, ROUND_HALF_UP)


_SMALLEST_MONEY, _WIDEST_MONEY, _MOST_DIGITS = Decimal("1e-10"), Decimal(99_999_999_999_999), 24
Money = Annotated[Decimal, Field(allow_inf_nan=False), AfterValidator(as_money)]
Needed = Annotated[str, StringConstraints(min_length=1)]
# Told apart and parsed by contract.times: what a moment may be written as is wider than one pydantic type.
Moment = str | float | int | None


class _Event(TypedDict, total=False):
    timestamp: Moment


class Message(_Event, total=False):
    """One utterance."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    role: Required[Literal["user", "assistant", "system", "tool"]]
    content: Required[str]
    node_id: str | None
    turn_number: Int | None
    was_interrupted: bool | None
    speaker: str | None
    start_ms: Float | None
    end_ms: Float | None
    confidence: Float | None
    audio_url: str | None
    tokens_used: BigInt | None
    model: str | None


class Transition(_Event, total=False):
    """One change of the workflow's node."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    from_node_id: str | None
    from_node_name: str | None
    to_node_id: Required[Needed]
    to_node_name: str | None
    reason: str | None
    condition: str | None
    turn_number: Int | None


class Metric(_Event, total=False):
    """One measurement; a latency in milliseconds unless `unit` says otherwise."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    metric_type: Required[Needed]
    value: Required[Float]
    unit: str | None
    processor: str | None
    model: str | None
    turn_number: Int | None
    node_id: str | None


class Chunk(TypedDict, total=False):
    """One piece of knowledge that a retrieval brought, in the order of its rank."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    chunk_id: str | None
    document_id: str | None
    filename: str | None
    s3_key: str | None
    chunk_index: Int | None
    token_count: Int | None
    score: Float | None
    content: str | None


class RagRetrieval(_Event, total=False):
    """One query of the knowledge base, with the chunks it found."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    query_text: Required[str]
    query_params: JsonValue
    search_mode: str | None
    top_k: Int | None
    processing_time_ms: Float | None
    node_id: str | None
    turn_number: Int | None
    chunks: list[Chunk] | None


class Extraction(_Event, total=False):
    """One attempt to take variables out of the conversation."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    variables_requested: Required[JsonValue]
    variables_extracted: Required[JsonValue]
    success: bool | None
    confidence: Float | None
    processing_time_ms: Float | None
    node_id: str | None
    turn_number: Int | None


class Interruption(_Event, total=False):
    """The user spoke while the agent did."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    interrupted_at_turn: Required[Int]
    node_id: str | None


class ToolCall(_Event, total=False):
    """One call of a tool, with what it answered."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    name: Required[Needed]
    arguments: JsonValue
    output: JsonValue
    is_error: bool | None
    duration_ms: Float | None
    node_id: str | None
    turn_number: Int | None


class Participant(_Event, total=False):
    """One party to the call."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    identity: Required[Needed]
    participant_type: str | None
    name: str | None
    user_id: str | None
    joined_at: Moment
    left_at: Moment
    is_muted: bool | None
    disconnect_reason: str | None


class Cost(_Event, total=False):
    """One charge, or one usage to be charged for."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    service: Required[Needed]
    amount_cents: Money | None
    usage: Money | None
    unit: str | None
    unit_price_cents: Money | None
    currency: Annotated[str, StringConstraints(max_length=64)] | None
    provider: str | None
    model: str | None


class Recording(_Event, total=False):
    """One recording of the call, or of a part of it."""

    __pydantic_config__ = _KEEP_UNKNOWN  # type: ignore[misc]

    recording_sid: str | None
    recording_url: str | None
    duration_seconds: Float | None
    channels: Int | None
    status: str | None
    track: str | None


CHUNK_COLUMNS = tuple(name for name in Chunk.__annotations__ if name != "content")
CHUNK_KNOWN = frozenset(Chunk.__annotations__)
ChunkPart: type[Columns] = part_class(Chunk, CHUNK_COLUMNS, ("content_hash", "extra"))
"""A chunk in memory: its columns, the hash of its content as the archive writes it, and `content` itself at the end."""


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """How events of one family are checked, which of their fields are what, and what they are in memory.

    `decode` reads a plain event and raises NOT_PLAIN for any other.
    """

    family: Family
    validator: SchemaValidator
    event: type[Event]
    decode: Callable[[bytes], Event]
    columns: tuple[str, ...]
    json_columns: frozenset[str] = frozenset()
    time_columns: frozenset[str] = frozenset()
    money_columns: frozenset[str] = frozenset()
    one_of: tuple[str, ...] = ()
    known: frozenset[str] = frozenset()


def _family(
    family: Family,
    model: type[Any],
    *,
    json: tuple[str, ...] = (),
    times: tuple[str, ...] = (),
    money: tuple[str, ...] = (),
    one_of: tuple[str, ...] = (),
    computed: tuple[str, ...] = (),
) -> FamilyModel:
    fields = [*model.__annotations__]
    columns = tuple(name for name in fields if name not in ("timestamp", "chunks"))
    validator = TypeAdapter(model).validator
    if not isinstance(validator, SchemaValidator):
        raise TypeError(f"{family}: pydantic's plugins cannot be used here; unset PYDANTIC_DISABLE_PLUGINS' opposite")
    event = class_of(model, columns, (*computed, "extra"), Event)
    return FamilyModel(
        family=family,
        validator=validator,
        event=event,
        decode=Decoder(event).decode,
        columns=columns,
        json_columns=frozenset(json),
        time_columns=frozenset(times),
        money_columns=frozenset(money),
        one_of=one_of,
        known=frozenset((*fields, "timestamp")),
    )


MODELS: Mapping[str, FamilyModel] = {
    model.family.value: model
    for model in (
        _family(Family.MESSAGE, Message),
        _family(Family.TRANSITION, Transition),
        _family(Family.METRIC, Metric),
        _family(Family.RAG, RagRetrieval, json=("query_params",)),
        _family(Family.EXTRACTION, Extraction, json=("variables_requested", "variables_extracted")),
        _family(Family.INTERRUPTION, Interruption),
        _family(Family.TOOL, ToolCall, json=("arguments", "output")),
        _family(Family.PARTICIPANT, Participant, times=("joined_at", "left_at"), computed=("duration_seconds",)),
        _family(
            Family.COST, Cost, money=("amount_cents", "usage", "unit_price_cents"), one_of=("amount_cents", "usage")
        ),
        _family(Family.RECORDING, Recording, one_of=("recording_sid", "recording_url")),
    )
}
"""By family name."""
