"""From the raw fields of a live session to a call: what each field means, and a reject for what means nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from functools import cache
from math import isfinite
from typing import cast

from pydantic import JsonValue, ValidationError

from session_bridge.contract.event import NOT_PLAIN, Event
from session_bridge.contract.fields import (
    ARRAY_DOCUMENTS,
    DEFAULT_IGNORE_FIELDS,
    DEFAULT_MAX_EVENTS,
    DOCUMENTS,
    EVENT_FIELD,
    INDEXED_IDS,
    MAX_INDEXED_ID_LENGTH,
    STATE_FIELDS,
    TIME_FIELDS,
    TRANSCRIPT_HISTORY,
    Family,
)
from session_bridge.contract.models import MODELS, FamilyModel, as_money
from session_bridge.contract.times import canonical_time, parse_time
from session_bridge.drain.call import Call, Reject, UnknownEvent, Value
from session_bridge.drain.events import (
    EventRules,
    RawFamily,
    are_event_ids,
    finish,
    read_any,
    read_plain,
    validate_leniently,
)
from session_bridge.drain.values import dump_json, load_json, read_text

_MODELS = {family.encode(): model for family, model in MODELS.items()}
_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off"))


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


@cache
def _ignored(globs: tuple[str, ...]) -> tuple[re.Pattern[str], Mapping[bytes, str]]:
    """What matches a field that is ignored, and the names of the fields of the state that are not."""
    pattern = re.compile("|".join(map(translate, globs)) or r"(?!)")
    return pattern, {name.encode(): name for name in STATE_FIELDS if not pattern.match(name)}


class _Reader:
    """Reads one live session."""

    def __init__(self, rules: Understanding, call_sid: str) -> None:
        self._rules = rules
        self._event_rules = EventRules(rules.metric_unit, rules.zone)
        self._ignored, self._state_names = _ignored(tuple(rules.ignore_fields))
        self._call = Call(call_sid)
        self._events = 0

    def read(self, fields: Mapping[bytes, bytes], oversize: Mapping[bytes, int]) -> Call:
        found: dict[bytes, tuple[list[bytes], list[bytes]]] = {family: ([], []) for family in _MODELS}
        for field, value in fields.items():
            family, colon, event_id = field.partition(b":")
            if colon and family in found:
                ids, values = found[family]
                ids.append(event_id)
                values.append(value)
            else:
                self._field(field, value)
        self._families([(_MODELS[family], ids, values) for family, (ids, values) in found.items() if ids])
        for field, size in oversize.items():
            if not self._ignored.match(field.decode("utf-8", "replace")):
                error = f"{size:,} bytes, more than SESSION_BRIDGE_MAX_FIELD_BYTES allows"
                self._call.rejects.append(Reject(field, None, size, "too large", error))
        return self._call

    # -- events -----------------------------------------------------------------------------------------------------

    def _families(self, raw: Sequence[RawFamily]) -> None:
        """Read events: together if all of them are plain, else family by family, and the rest one by one."""
        if self._are_plain(raw):
            return
        for one in raw:
            if len(raw) == 1 or not self._are_plain([one]):
                model, ids, values = one
                for event_id, value in zip(ids, values, strict=True):
                    self._event(model, event_id, value)

    def _are_plain(self, raw: Sequence[RawFamily]) -> bool:
        """Whether these events are plain; then they are read."""
        total = sum(len(ids) for _, ids, _ in raw)
        if self._events + total > self._rules.max_events or not all(are_event_ids(ids) for _, ids, _ in raw):
            return False
        try:
            self._call.events |= read_plain(raw, self._event_rules)
        except (*NOT_PLAIN, ValueError):
            return False
        self._events += total
        return True

    def _event(self, model: FamilyModel, event_id: bytes, value: bytes) -> None:
        field = b"%s:%s" % (model.family.encode(), event_id)
        if not are_event_ids([event_id]):
            self._reject(field, value, "event id", "an event id is 1 to 64 of A-Z a-z 0-9 _ . -")
            return
        self._events += 1
        if self._events > self._rules.max_events:
            self._reject_surplus(field, value)
            return
        try:
            try:
                [event] = read_plain([(model, [event_id], [value])], self._event_rules)[model.family]
            except (*NOT_PLAIN, ValueError):
                event, cleaned = read_any(model, event_id.decode(), value, self._event_rules, self._call)
                if cleaned:
                    self._cleaned(field, value)
        except ValueError as error:
            self._reject(field, value, "not a valid event", explain(error))
            return
        self._call.events.setdefault(model.family, []).append(event)

    def _reject_surplus(self, field: bytes, value: bytes) -> None:
        error = f"more than {self._rules.max_events:,} events in one call (SESSION_BRIDGE_MAX_EVENTS)"
        self._reject(field, value, "too many events", error)

    # -- everything else --------------------------------------------------------------------------------------------

    def _field(self, field: bytes, value: bytes) -> None:
        if field in self._state_names:
            self._text(self._state_names[field], field, value)
            return
        name, renamed = read_text(field)
        if self._ignored.match(name):
            return
        if renamed:
            self._reject(field, value, "field name", "a field's name is UTF-8 text without U+0000")
        elif name in DOCUMENTS:
            self._document(name, field, value)
        elif ":" in name and (match := EVENT_FIELD.fullmatch(name)):
            self._unknown_event(match[1], match[2], field, value)
        else:
            self._text(name, field, value)

    def _text(self, name: str, field: bytes, value: bytes) -> None:
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
        if name in INDEXED_IDS and len(text) > MAX_INDEXED_ID_LENGTH:
            raise ValueError(f"a {name} has at most {MAX_INDEXED_ID_LENGTH} characters")
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
        if value is None or value in ({}, []):
            # An empty table of Lua or array of PHP may be either.
            return
        if not isinstance(value, kind):
            expected = "an array" if kind is list else "an object"
            self._reject(field, raw, "not the kind of JSON", f"{name} is {expected}, this is {type(value).__name__}")
            return
        if cleaned:
            self._cleaned(field, raw)
        if name == TRANSCRIPT_HISTORY:
            self._history(field, cast("list[JsonValue]", value))
        else:
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
                validate_leniently(model, dump_json(item).encode())
            except ValueError as error:
                self._reject(field, raw, "not a valid message", explain(error))
            else:
                self._call.history.append(item)

    def history_event(self, event_id: str, item: dict[str, JsonValue]) -> Event:
        """One item of the older form of the transcript as a message."""
        data, _ = validate_leniently(MODELS[Family.MESSAGE], dump_json(item).encode())
        return finish(MODELS[Family.MESSAGE], event_id, data, self._event_rules, self._call)

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
            if text.strip():
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
