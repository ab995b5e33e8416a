"""From a provider's values to a live session's fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import parsedate_to_datetime

from pydantic import JsonValue

from session_bridge.contract.times import parse_time
from session_bridge.contract.vocabulary import TERMINAL, status_of
from session_bridge.errors import UnreadableCallbackError
from session_bridge.recorder.snapshot import text_bytes
from session_bridge.webhooks.callback import Body

KEPT = "callback"
"""The family of what a callback said and nobody has a field for: it becomes a row of `call_events`."""

_NOTHING = ("", "null", "None", "0000-00-00 00:00:00")
_LONGEST_NUMBER = 30


def text(value: JsonValue) -> str:
    """A scalar as text, empty for everything that is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "" if value.strip() in _NOTHING else value.strip()
    return str(value) if isinstance(value, int | float) and len(repr(value)) <= _LONGEST_NUMBER else ""


def number(value: JsonValue, below: float = 1e12) -> float | None:
    """A number that is no less than nothing and no greater than any duration or price."""
    try:
        found = float(text(value))
    except ValueError:
        return None
    return found if 0 <= found < below else None


def whole(value: JsonValue, below: float = 1e12) -> int | None:
    """A whole number of that kind."""
    found = number(value, below)
    return int(found) if found is not None and found.is_integer() else None


def part(body: Body, *names: str) -> dict[str, JsonValue]:
    """The object at the end of these names, empty if there is none."""
    found: JsonValue = dict(body)
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def moment(value: JsonValue, zone: tzinfo = UTC) -> datetime | None:
    """The moment of ISO 8601, RFC 2822 or epoch text or number; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not text(value):
        return None
    try:
        return parse_time(value, zone)
    except (ValueError, OverflowError):
        pass
    try:
        return parse_time(parsedate_to_datetime(str(value)).isoformat(), zone)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def iso(value: datetime | None) -> str:
    """A moment as the contract writes it, empty if there is none."""
    return value.astimezone(UTC).isoformat() if value else ""


def earlier(value: datetime | None, seconds: float | None) -> datetime | None:
    """The moment so many seconds before; None if one of the two is not known."""
    try:
        return value - timedelta(seconds=seconds) if value and seconds is not None else None
    except OverflowError:
        return None


def call_sid(body: Body, *names: str) -> str:
    """The id under the first of these names that has one; raises UnreadableCallbackError if none has."""
    for name in names:
        if found := text(body.get(name)):
            return found
    raise UnreadableCallbackError(f"the body names no call: it has no {' and no '.join(names)}")


def direction(word: JsonValue) -> str:
    """`inbound` or `outbound` for the many words that begin so; any other as it came."""
    found = text(word)
    for plain in ("inbound", "outbound"):
        if found.lower().startswith(plain):
            return plain
    return found


def is_end(word: str) -> bool:
    """Whether this status is an end."""
    return status_of(word) in TERMINAL


def fields(**values: str | float | None) -> dict[str, str]:
    """State fields; what is empty is left out."""
    return {name: str(value) for name, value in values.items() if value not in ("", None)}


def event(revision: int | None = None, **facts: JsonValue) -> str:
    """An event; what is empty is left out.

    Of two writings of one event that both have a revision, the greater holds, whichever came first.
    """
    known = {name: value for name, value in sorted(facts.items()) if value not in ("", None)}
    first: dict[str, JsonValue] = {} if revision is None else {"revision": revision}
    return json.dumps(first | known, ensure_ascii=False, separators=(",", ":"))


def kept(
    provider: str, what: str, body: Body, *, known: Iterable[str] = (), at: datetime | None = None
) -> dict[str, str]:
    """What is left of a body without the names that are `known`, as an event of its own; nothing if nothing is left.

    Its id comes from its content: repeated, it is the same one.
    """
    taken = frozenset(known)
    left = {name: value for name, value in body.items() if name not in taken and value not in ("", None)}
    if not left:
        return {}
    kept_body: JsonValue = dict(left)
    facts: dict[str, JsonValue] = {"provider": provider, "event": what, "body": kept_body}
    if at:
        facts["timestamp"] = iso(at)
    written = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return {f"{KEPT}:{provider}-{hashlib.sha256(text_bytes(written)).hexdigest()[:32]}": written}


def flat(fields_of_form: Mapping[str, JsonValue], name: str) -> list[dict[str, JsonValue]]:
    """`Name[0][Key]` fields of a form as the list of objects that they mean, or the list that JSON has there."""
    there = fields_of_form.get(name)
    if isinstance(there, list):
        return [item for item in there if isinstance(item, dict)]
    items: dict[int, dict[str, JsonValue]] = {}
    for key, value in fields_of_form.items():
        place, bracket, rest = key.removeprefix(f"{name}[").partition("][")
        if key.startswith(f"{name}[") and bracket and place.isascii() and place.isdigit() and len(place) <= 3:  # noqa: PLR2004  # a call has fewer legs
            items.setdefault(int(place), {})[rest.rstrip("]")] = value
    return [items[place] for place in sorted(items)]


def revised(name: str, value: str, revision: int) -> str:
    """The field `name`, with a revision in its value if it is an event."""
    if ":" not in name or not value.startswith("{") or value.startswith('{"revision":'):
        return value
    return f'{{"revision":{revision}{"," if value[1:].strip() != "}" else ""}{value[1:]}'
