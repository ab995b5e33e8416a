"""What a caller hands over, as the bytes that are stored: taken at the call, and never an error."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from uuid import UUID

_logger = logging.getLogger("session_bridge.recorder")

_EVENT_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NOT_IN_EVENT_IDS = re.compile(r"[^A-Za-z0-9_.-]+")
# Deeper than this, a value is kept as its text; json itself gives up somewhere near a thousand.
_MAX_DEPTH = 100
# Python refuses to write a number that is much longer.
_MAX_BITS = 1024
_reported: set[str] = set()


def json_bytes(value: object) -> bytes:
    """`value` as JSON in UTF-8, whatever it is: what JSON has no form for is kept as its text."""
    try:
        return _encode(value).encode()
    except Exception:  # noqa: BLE001  # a caller's __str__, keys or cycles may raise anything; the call must go on
        return json.dumps(_plain(value, ())).encode()


def state_bytes(value: object) -> bytes:
    """A state or document field: text as it is, numbers and times as text, containers as JSON."""
    if isinstance(value, str):
        return text_bytes(value)
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, datetime):
        return _time_text(value).encode()
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return json_bytes(value)
    if isinstance(value, Enum):
        return state_bytes(value.value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return text_bytes(_text(value))


def text_bytes(text: str) -> bytes:
    """`text` in UTF-8; a lone surrogate, which UTF-8 cannot carry, is kept as its escape."""
    return text.encode(errors="backslashreplace")


def event_id_of(name: str) -> str:
    """An event id for something that already has a name, the same for the same name.

    A name that is not 1 to 64 of `A-Z a-z 0-9 _ . -` is shortened to what is legal and told apart by a digest.
    """
    if _EVENT_ID.fullmatch(name):
        return name
    digest = hashlib.sha256(text_bytes(name)).hexdigest()[:16]
    readable = _NOT_IN_EVENT_IDS.sub("_", name)[:47].strip("_")
    return f"{readable}-{digest}" if readable else digest


def _foreign(value: object) -> object:
    """What json has no form for, in the nearest form it has."""
    if isinstance(value, datetime):
        return _time_text(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="backslashreplace")
    return _text(value)


def _plain(value: object, path: tuple[int, ...]) -> object:
    """A copy of `value` that json can surely write; `path` are the containers it lies in, for they may be in a ring."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) is str:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and value.bit_length() < _MAX_BITS:
        return value
    if len(path) == _MAX_DEPTH or id(value) in path:
        return _text(value)
    path = (*path, id(value))
    try:
        if isinstance(value, Mapping):
            return {_key(key): _plain(item, path) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            items: Iterable[object] = value
            return [_plain(item, path) for item in items]
        if isinstance(value, Enum | datetime | bytes | bytearray):
            return _plain(_foreign(value), path)
    except Exception:  # noqa: BLE001  # iterating somebody's container may raise anything
        return _text(value)
    return _text(value)


def _key(key: object) -> str:
    return key if type(key) is str else _text(key)


def _text(value: object) -> str:
    if not isinstance(value, int | float | Decimal | UUID | date | PurePath | str):
        _report(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # see above
        return f"<{type(value).__name__} that cannot be shown>"


def _time_text(moment: datetime) -> str:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _report(value: object) -> None:
    name = type(value).__qualname__
    if name not in _reported:
        _reported.add(name)
        _logger.warning("a value of type %s has no form in JSON and is recorded as its text (said once)", name)


def _make_encode() -> Callable[[object], str]:
    """The encoder of json, made once: JSONEncoder makes its C part anew for each value, a quarter of the whole cost.

    That part is no documented interface, so it is used only where it writes what the documented one does.
    """
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_foreign).encode
    make = getattr(json.encoder, "c_make_encoder", None)
    sample = {"text": '\u0142 "\n', "list": [1, 2.5, None, True, ()], "date": date(2026, 11, 21)}
    try:
        chunks = make(None, _foreign, json.encoder.encode_basestring, None, ":", ",", False, False, False)  # type: ignore[misc]
        if "".join(chunks(sample, 0)) == plain(sample):
            return lambda value: "".join(chunks(value, 0))
    except TypeError:
        pass
    return plain


_encode = _make_encode()
