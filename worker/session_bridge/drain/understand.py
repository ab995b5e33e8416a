"""From the raw fields of a live session to a call: what each field means, and a reject for what means nothing."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from itertools import chain
from math import isfinite
from typing import cast

from pydantic import JsonValue, ValidationError

from session_bridge.contract.fields import (
    ARRAY_DOCUMENTS,
    DEFAULT_IGNORE_FIELDS,
    DEFAULT_MAX_EVENTS,
    DOCUMENTS,
    EVENT_FIELD,
    MAX_TENANT_ID_LENGTH,
    STATE_FIELDS,
    TIME_FIELDS,
    TRANSCRIPT_HISTORY,
    Family,
)
from session_bridge.contract.models import CHUNK_KNOWN, MODELS, FamilyModel, as_money
from session_bridge.contract.plain import NOT_PLAIN, Fields
from session_bridge.contract.times import canonical_time, parse_time
from session_bridge.contract.vocabulary import LATENCY_TYPES
from session_bridge.drain.call import Call, Event, Reject, UnknownEvent, Value
from session_bridge.drain.repeats import others_that_repeat, plain_that_repeat
from session_bridge.drain.values import dump_json, load_json, read_text

_EVENT_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_LONGEST_ID = 64
_MODELS = {family.encode(): model for family, model in MODELS.items()}
_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off"))
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
_MILLISECONDS = {"s": 1000.0, "sec": 1000.0, "seconds": 1000.0, "second": 1000.0, "us": 0.001, "ns": 0.000001}
_NUL, _BACKSLASH = b"\\u0000", b"\\"


@dataclass(frozen=True, slots=True)
class Understanding:
    """The rules by which fields are read."""

    ignore_fields: Sequence[str] = DEFAULT_IGNORE_FIELDS
    max_events: int = DEFAULT_MAX_EVENTS
    metric_unit: str = "ms"
    zone: tzinfo = UTC

    def call(self, call_sid: str, fields: Mapping[bytes, bytes], oversize: Mapping[bytes, int]) -> Call:
        """What the fields of the live session of `call_sid` say. Never raises for what a field holds."""
        return _Reader(self, call_sid).read(fields, oversize)


class _Reader:
    """Reads one live session."""

    def __init__(self, rules: Understanding, call_sid: str) -> None:
        self._rules = rules
        self._call = Call(call_sid)
        self._ignored = re.compile("|".join(map(translate, rules.ignore_fields)) or r"(?!)")
        self._events = 0
        self._plain: list[tuple[bytes, bytes, Fields, bool]] = []
        self._others: list[tuple[bytes, bytes]] = []

    def read(self, fields: Mapping[bytes, bytes], oversize: Mapping[bytes, int]) -> Call:
        for field, value in fields.items():
            family, colon, event_id = field.partition(b":")
            model = _MODELS.get(family)
            if model is not None and colon:
                self._event(model, field, event_id, value)
            else:
                self._field(field, value)
        for field, value in chain(plain_that_repeat(self._plain), others_that_repeat(self._others)):
            self._cleaned(field, value)
        for field, size in oversize.items():
            if not self._ignored.match(field.decode("utf-8", "replace")):
                error = f"{size:,} bytes, more than SESSION_BRIDGE_MAX_FIELD_BYTES allows"
                self._call.rejects.append(Reject(field, None, size, "too large", error))
        return self._call

    # -- events -----------------------------------------------------------------------------------------------------

    def _event(self, model: FamilyModel, field: bytes, event_id: bytes, value: bytes) -> None:
        # Most ids are letters and digits, which is sooner seen than matched.
        if not (event_id.isalnum() and len(event_id) <= _LONGEST_ID) and not _EVENT_ID.fullmatch(event_id):
            self._reject(field, value, "event id", "an event id is 1 to 64 of A-Z a-z 0-9 _ . -")
            return
        self._events += 1
        if self._events > self._rules.max_events:
            self._reject_surplus(field, value)
            return
        cleaned = False
        try:
            event = self._plain_event(model, field, event_id, value)
            if event is None:
                data = None if _NUL in value else _validate(model, value)
                if data is None:
                    data, cleaned = _validate_leniently(model, value)
                    event = self._finish(model, event_id.decode(), data)
                else:
                    event = self._finish(model, event_id.decode(), data)
                    self._others.append((field, value))
        except ValueError as error:
            self._reject(field, value, "not a valid event", explain(error))
            return
        if cleaned:
            self._cleaned(field, value)
        self._call.events.setdefault(model.family, []).append(event)

    def _reject_surplus(self, field: bytes, value: bytes) -> None:
        error = f"more than {self._rules.max_events:,} events in one call (SESSION_BRIDGE_MAX_EVENTS)"
        self._reject(field, value, "too many events", error)

    def _plain_event(self, model: FamilyModel, field: bytes, event_id: bytes, value: bytes) -> Event | None:
        """The event if it is plain throughout, as most are; None if the tolerant way has to be taken."""
        # Most have no backslash at all, which is seen much sooner.
        if model.plain is None or (_BACKSLASH in value and _NUL in value):
            return None
        unit_added = False
        try:
            data = model.plain(value)
            moment = data["timestamp"]
            stamp = canonical_time(moment, self._rules.zone) if moment else None
            for column in model.time_columns:
                data[column] = canonical_time(data[column], self._rules.zone) if data[column] else None
        except (*NOT_PLAIN, ValueError):
            return None
        if model.family is Family.METRIC and data["metric_type"] in LATENCY_TYPES:
            if (data["unit"] or self._rules.metric_unit) != "ms":
                return None
            unit_added = data["unit"] is None
            data["unit"] = "ms"
        if model.time_columns:
            # These were written anew, with colons of their own.
            self._others.append((field, value))
        else:
            self._plain.append((field, value, data, unit_added))
        return Event(event_id.decode(), stamp, data)

    def _finish(self, model: FamilyModel, event_id: str, data: dict[str, Value]) -> Event:
        """Give a validated event its types: moments, JSON as text, and what no column has in `extra`."""
        for column in model.json_columns:
            if data.get(column) is not None:
                data[column] = dump_json(cast("JsonValue", data[column]))
        extra: dict[str, JsonValue] = {}
        if not data.keys() <= model.known:
            for name in data.keys() - model.known:
                extra[name] = cast("JsonValue", data.pop(name))
        timestamp = self._moment("timestamp", data.pop("timestamp", None), extra)
        for column in model.time_columns:
            data[column] = self._moment(column, data.get(column), extra)
        for column in model.one_of:
            if data.get(column) is not None:
                break
        else:
            if model.one_of:
                raise ValueError(f"needs {' or '.join(model.one_of)}")
        if model.family is Family.METRIC:
            self._to_milliseconds(data)
        elif model.family is Family.RAG:
            _finish_chunks(cast("list[dict[str, JsonValue]]", data.get("chunks") or []))
        if extra:
            data["extra"] = dump_json(extra)
        return Event(event_id, timestamp, data)

    def _moment(self, name: str, value: object, extra: dict[str, JsonValue]) -> str | None:
        """The moment `value` names; one that makes no sense is kept as it came, beside the columns."""
        if value is None or value == "":
            return None
        try:
            return canonical_time(value, self._rules.zone)
        except ValueError:
            extra[_free_name(f"{name}_raw", extra)] = cast("JsonValue", value)
            self._call.doubtful = True
            return None

    def _to_milliseconds(self, data: dict[str, Value]) -> None:
        if data["metric_type"] not in LATENCY_TYPES:
            return
        unit = data.get("unit") or self._rules.metric_unit
        if unit != "ms":
            factor = _MILLISECONDS.get(str(unit).lower())
            if factor is None:
                return
            value = data["value"] = cast("float", data["value"]) * factor
            if not isfinite(value):
                raise ValueError("the number is too large")
        data["unit"] = "ms"

    # -- everything else --------------------------------------------------------------------------------------------

    def _field(self, field: bytes, value: bytes) -> None:
        name, renamed = read_text(field)
        if self._ignored.match(name):
            return
        if renamed:
            self._reject(field, value, "field name", "a field's name is UTF-8 text without U+0000")
        elif name in DOCUMENTS:
            self._document(name, field, value)
        elif match := EVENT_FIELD.fullmatch(name):
            self._unknown_event(match[1], match[2], field, value)
        else:
            text, cleaned = read_text(value)
            if text.strip():
                try:
                    self._state(name, text)
                except ValueError as error:
                    self._reject(field, value, "not a valid value", explain(error))
                    return
            if cleaned:
                self._cleaned(field, value)

    def _state(self, name: str, text: str) -> None:
        if name not in STATE_FIELDS:
            self._call.extra[name] = text
            return
        try:
            self._call.state[name] = self._state_value(name, text)
        except ValueError:
            if name in TIME_FIELDS:
                self._call.doubtful = True
                # It is a reject too, so that a writer's own field of this name may stand here.
                self._call.extra.setdefault(f"{name}_raw", text)
            raise

    def _state_value(self, name: str, text: str) -> Value:
        if name in TIME_FIELDS:
            return parse_time(text, self._rules.zone)
        if name == "recording_enabled":
            return _boolean(text)
        if name == "recording_duration_seconds":
            return _number(text)
        if name == "estimated_cost_cents":
            return _decimal(text)
        if name == "status_sequence":
            return _integer(text)
        if name == "tenant_id" and len(text) > MAX_TENANT_ID_LENGTH:
            raise ValueError(f"a tenant id has at most {MAX_TENANT_ID_LENGTH} characters")
        return text

    def _document(self, name: str, field: bytes, raw: bytes) -> None:
        if not raw.strip():
            return
        try:
            value, cleaned = load_json(raw)
            dump_json(value)
        except ValueError as error:
            self._reject(field, raw, "not JSON", explain(error))
            return
        kind = list if name in ARRAY_DOCUMENTS else dict
        if value is None:
            return
        if not isinstance(value, kind):
            expected = "an array" if kind is list else "an object"
            self._reject(field, raw, "not the kind of JSON", f"{name} is {expected}, this is {type(value).__name__}")
            return
        if cleaned:
            self._cleaned(field, raw)
        if name == TRANSCRIPT_HISTORY:
            self._history(field, cast("list[JsonValue]", value))
        elif value:
            self._call.documents[name] = value

    def _history(self, field: bytes, items: list[JsonValue]) -> None:
        model = MODELS[Family.MESSAGE]
        for item in items:
            raw = dump_json(item).encode()
            try:
                if not isinstance(item, dict):
                    raise ValueError("an item of transcript_history is an object with role and content")  # noqa: TRY301, TRY004
                if "content" not in item and "text" in item:
                    item["content"] = item.pop("text")
                _validate_leniently(model, dump_json(item).encode())
            except ValueError as error:
                self._reject(field, raw, "not a valid message", explain(error))
            else:
                self._call.history.append(item)

    def history_event(self, event_id: str, item: dict[str, JsonValue]) -> Event:
        """One item of the older form of the transcript as a message."""
        data, _ = _validate_leniently(MODELS[Family.MESSAGE], dump_json(item).encode())
        return self._finish(MODELS[Family.MESSAGE], event_id, data)

    def _unknown_event(self, family: str, event_id: str, field: bytes, raw: bytes) -> None:
        self._events += 1
        if self._events > self._rules.max_events:
            self._reject_surplus(field, raw)
            return
        try:
            value, cleaned = load_json(raw)
            payload = dump_json(value)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            # A name with a colon that holds no object is a field nobody knows, not an event.
            text, cleaned = read_text(raw)
            if cleaned:
                self._cleaned(field, raw)
            self._call.extra[field.decode()] = text
            return
        if cleaned:
            self._cleaned(field, raw)
        try:
            timestamp = canonical_time(value.get("timestamp"), self._rules.zone)
        except ValueError:
            # What a family we do not know means by it casts no doubt on the call; it stays in the payload.
            timestamp = None
        self._call.unknown_events.append(UnknownEvent(family, event_id, timestamp, payload))

    def _reject(self, field: bytes, raw: bytes, reason: str, error: str) -> None:
        self._call.rejects.append(Reject(field, raw, len(raw), reason, error))

    def _cleaned(self, field: bytes, raw: bytes) -> None:
        error = "held U+0000, a lone surrogate, bytes that are not UTF-8 or one name twice; archived without them"
        self._call.rejects.append(Reject(field, raw, len(raw), "cleaned", error, cleaned=True))


def history_events(rules: Understanding, call: Call) -> list[Event]:
    """The older form of the transcript as messages, with ids that no writer can use."""
    reader = _Reader(rules, call.call_sid)
    events = [reader.history_event(f"history:{place:06}", item) for place, item in enumerate(call.history, 1)]
    call.doubtful = call.doubtful or reader._call.doubtful  # noqa: SLF001  # its own reader
    return events


def _validate(model: FamilyModel, raw: bytes) -> dict[str, Value] | None:
    """The event in `raw`, or None if it takes the tolerant way to tell."""
    try:
        return cast("dict[str, Value]", model.validator.validate_json(raw))
    except ValidationError:
        return None


def _validate_leniently(model: FamilyModel, raw: bytes) -> tuple[dict[str, Value], bool]:
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
    return cast("dict[str, Value]", model.validator.validate_python(value)), cleaned


def _free_name(name: str, taken: Container[str]) -> str:
    """`name`, made longer for as long as it is taken."""
    while name in taken:
        name += "_"
    return name


def _finish_chunks(chunks: list[dict[str, JsonValue]]) -> None:
    for chunk in chunks:
        if not chunk.keys() <= CHUNK_KNOWN:
            chunk["extra"] = dump_json({name: chunk.pop(name) for name in chunk.keys() - CHUNK_KNOWN})


def explain(error: ValueError) -> str:
    """One line on what was wrong with a value, without the value: it may hold what logs must not."""
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or 'event'}: {detail['msg']}" for detail in error.errors()[:5]
        )
    return str(error).splitlines()[0]


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("not a yes or no; write true or false")


def _number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("the number is not finite")
    return number


def _integer(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("the number is too large")
    return number


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError("not a number") from None
    return as_money(number)
