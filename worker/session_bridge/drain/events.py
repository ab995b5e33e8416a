"""A call's events, from their JSON.

Most are plain, and then all of a call's are read together in a few quick steps. If one of them is not, each family is
read by itself, and of a family that is not plain each event: as a plain one, or as the model sees it, or tolerantly,
with what had to be replaced kept as a reject.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from math import isfinite
from typing import TypeAlias, cast

from msgspec.json import encode
from pydantic import JsonValue, ValidationError

from session_bridge.contract.event import Columns, Event
from session_bridge.contract.fields import Family
from session_bridge.contract.models import CHUNK_KNOWN, ChunkPart, FamilyModel, as_money
from session_bridge.contract.times import canonical_time, canonical_times
from session_bridge.contract.vocabulary import LATENCY_TYPES
from session_bridge.drain.call import Call, Value
from session_bridge.drain.repeats import drops_nothing, repeats_a_name
from session_bridge.drain.values import MAX_DEPTH, dump_json, load_json

_EVENT_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_LONGEST_ID = 64
_ROLES = {
    "agent": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "caller": "user",
    "customer": "user",
    "human": "user",
    "developer": "system",
    "function": "tool",
}
_UNITS = {
    1.0: "ms msec msecs millisecond milliseconds",
    1000.0: "s sec secs second seconds",
    60_000.0: "m min mins minute minutes",
    0.001: "us µs μs usec usecs microsecond microseconds",
    0.000001: "ns nsec nsecs nanosecond nanoseconds",
}
_MILLISECONDS = {word: factor for factor, words in _UNITS.items() for word in words.split()}
_NUL = b"\\u0000"


RawFamily: TypeAlias = tuple[FamilyModel, Sequence[bytes], Sequence[bytes]]
"""Events of one family as they came: its model, their ids, and the JSON of each."""


@dataclass(frozen=True, slots=True)
class EventRules:
    """The settings by which events are read: what a latency without a unit is in, and a time without a zone."""

    metric_unit: str = "ms"
    zone: tzinfo = UTC


def are_event_ids(ids: Sequence[bytes]) -> bool:
    """Whether each of `ids`, at least one, is 1 to 64 of the characters A-Z a-z 0-9 _ . and -."""
    # Most are letters and digits, which is sooner seen than matched.
    if b"".join(ids).isalnum() and all(ids) and max(map(len, ids)) <= _LONGEST_ID:
        return True
    return all(map(_EVENT_ID.fullmatch, ids))


# -- plain ones -----------------------------------------------------------------------------------------------------


def read_plain(raw: Sequence[RawFamily], rules: EventRules) -> dict[Family, list[Event]]:
    """The events of these families, if all of them are plain; else raises ValueError or one of NOT_PLAIN."""
    joined = b"".join([value for _, _, values in raw for value in values])
    # A single byte is found much sooner, and most often it is not there.
    if b"\\" in joined and _NUL in joined:
        raise ValueError("U+0000 has to be taken out")
    families = {model.family: list(map(model.decode, values)) for model, _, values in raw}
    events = [event for family in families.values() for event in family]
    if not drops_nothing(joined, events):
        raise ValueError("perhaps one name comes twice in an object")
    for event, event_id in zip(events, [event_id for _, ids, _ in raw for event_id in ids], strict=True):
        event.event_id = event_id.decode()
    timed = [event for event in events if event.timestamp is not None]
    if moments := canonical_times([event.timestamp for event in timed]):
        for event, moment in zip(timed, moments, strict=True):
            event.timestamp = moment
    else:
        for event in timed:
            event.timestamp = _plain_moment(event.timestamp, rules)
    for model, _, _ in raw:
        _settle(model, families[model.family], rules)
    return families


def _settle(model: FamilyModel, events: Sequence[Event], rules: EventRules) -> None:
    """Put the columns of one family into the form that the archive has them in."""
    if model.family is Family.METRIC:
        _settle_units(events, rules)
    _settle_columns(model, events, rules)
    if model.one_of and not all(any(getattr(event, name) is not None for name in model.one_of) for event in events):
        raise ValueError(f"needs {' or '.join(model.one_of)}")


def _plain_moment(value: object, rules: EventRules) -> str | None:
    return None if value is None or value == "" else canonical_time(value, rules.zone)


def _settle_units(metrics: Sequence[Event], rules: EventRules) -> None:
    for metric in metrics:
        if metric.unit != "ms" and metric.metric_type in LATENCY_TYPES:
            if (metric.unit or rules.metric_unit) != "ms":
                raise ValueError("to be converted")
            metric.unit = "ms"


def _settle_columns(model: FamilyModel, events: Sequence[Event], rules: EventRules) -> None:
    for column in model.time_columns:
        for event in events:
            setattr(event, column, _plain_moment(getattr(event, column), rules))
    for column in model.money_columns:
        for event in events:
            if (amount := getattr(event, column)) is not None:
                setattr(event, column, as_money(amount))
    for column in model.json_columns:
        for event in events:
            if (document := getattr(event, column)) is not None:
                text = encode(document)
                # Each level takes two brackets, and one of them was taken by the event.
                if len(text) >= 2 * MAX_DEPTH and text.count(b"{") + text.count(b"[") >= MAX_DEPTH:
                    raise ValueError("perhaps nested too deep")
                setattr(event, column, text.decode())


# -- any ------------------------------------------------------------------------------------------------------------


def read_any(model: FamilyModel, event_id: str, raw: bytes, rules: EventRules, call: Call) -> tuple[Event, bool]:
    """The event in `raw`, and whether something in it had to be replaced; raises ValueError if it is none.

    A time in it that makes no sense makes `call` doubtful.
    """
    data, cleaned = None, False
    if _NUL not in raw:
        try:
            data = cast("dict[str, Value]", model.validator.validate_json(raw))
            cleaned = repeats_a_name(raw)
        except ValidationError:
            # It takes the tolerant way to tell.
            data = None
    if data is None:
        data, cleaned = validate_leniently(model, raw)
    return finish(model, event_id, data, rules, call), cleaned


def validate_leniently(model: FamilyModel, raw: bytes) -> tuple[dict[str, Value], bool]:
    """What `model` makes of `raw` after what cannot be stored is replaced, and whether there was any of it."""
    value, cleaned = load_json(raw)
    if not isinstance(value, dict):
        raise ValueError(f"an event is a JSON object, this is {type(value).__name__}")  # noqa: TRY004
    role = value.get("role")
    if model.family is Family.MESSAGE and isinstance(role, str):
        word = role.strip().lower()
        if word != role or word in _ROLES:
            value["role"] = _ROLES.get(word, word)
            # A writer may have one of its own: then the field is kept raw beside it.
            cleaned = value.setdefault("role_raw", role) != role or cleaned
    return _validated(model, value), cleaned


def _validated(model: FamilyModel, value: dict[str, JsonValue]) -> dict[str, Value]:
    """What `model` makes of `value`; empty text where something else is meant, or `{}` for a list, says nothing."""
    try:
        return cast("dict[str, Value]", model.validator.validate_python(value))
    except ValidationError as error:
        faults = error.errors()
        empty = {fault["loc"][0] for fault in faults if len(fault["loc"]) == 1 and fault["input"] in ("", {})}
        if not empty:
            raise
        rest = {name: one for name, one in value.items() if name not in empty}
        return cast("dict[str, Value]", model.validator.validate_python(rest))


def finish(model: FamilyModel, event_id: str, data: dict[str, Value], rules: EventRules, call: Call) -> Event:
    """The event of validated `data`: moments, JSON as text, and what no column has in `extra`."""
    for column in model.json_columns:
        if data.get(column) is not None:
            data[column] = dump_json(cast("JsonValue", data[column]))
    extra: dict[str, JsonValue] = {}
    if not data.keys() <= model.known:
        for name in data.keys() - model.known:
            extra[name] = cast("JsonValue", data.pop(name))
    for column in ("timestamp", *model.time_columns):
        data[column] = _moment(column, data.get(column), extra, rules, call)
    if model.one_of and all(data.get(column) is None for column in model.one_of):
        raise ValueError(f"needs {' or '.join(model.one_of)}")
    if model.family is Family.METRIC:
        _to_milliseconds(data, rules)
    columns: dict[str, object] = {**data, "extra": dump_json(extra) if extra else None}
    if data.get("chunks"):
        columns["chunks"] = list(map(_chunk, cast("list[dict[str, JsonValue]]", data["chunks"])))
    return model.event(event_id=event_id, **columns)


def _moment(name: str, value: object, extra: dict[str, JsonValue], rules: EventRules, call: Call) -> str | None:
    """The moment `value` names; one that makes no sense is kept as it came, beside the columns."""
    if value is None or value == "":
        return None
    try:
        return canonical_time(value, rules.zone)
    except ValueError:
        extra[_free_name(f"{name}_raw", extra)] = cast("JsonValue", value)
        call.doubtful = True
        return None


def _free_name(name: str, taken: Container[str]) -> str:
    """`name`, made longer for as long as it is taken."""
    while name in taken:
        name += "_"
    return name


def _to_milliseconds(data: dict[str, Value], rules: EventRules) -> None:
    if data["metric_type"] not in LATENCY_TYPES:
        return
    unit = data.get("unit") or rules.metric_unit
    if unit != "ms":
        factor = _MILLISECONDS.get(str(unit).strip().lower())
        if factor is None:
            return
        value = data["value"] = cast("float", data["value"]) * factor
        if not isfinite(value):
            raise ValueError("the number is too large")
    data["unit"] = "ms"


def _chunk(chunk: dict[str, JsonValue]) -> Columns:
    if chunk.keys() <= CHUNK_KNOWN:
        return ChunkPart(**chunk)
    extra = dump_json({name: chunk.pop(name) for name in chunk.keys() - CHUNK_KNOWN})
    return ChunkPart(**chunk, extra=extra)
