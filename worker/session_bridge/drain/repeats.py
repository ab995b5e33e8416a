"""Whether JSON gives one name twice in one object: every reader keeps the last value, and drops the others.

That is seen without reading the JSON a second time. A name comes with a colon, and a colon within a text is a colon
again when that text is written anew. So what was understood, written anew, has as many colons as the JSON it came
from, unless something was dropped; only then is it looked at more closely.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import msgspec
from pydantic import JsonValue

from session_bridge.contract.event import Event

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
# A colon that is escaped, and so is none in the text it came from.
_ESCAPE, _ESCAPED_COLON = b"\\", b"\\u003"
# What is null in an event's JSON is left out when it is written anew, and its colon with it.
_NULL = re.compile(rb":\s*null\s*[,}]")


class _RepeatedError(Exception):
    """A name came twice."""


def repeats_a_name(raw: bytes) -> bool:
    """Whether an object in `raw` has a name twice; False also for what is no JSON."""
    try:
        if not _may_drop(raw) and raw.count(b":") == _encode(_decode(raw)).count(b":"):
            return False
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # it refuses what others take
    try:
        json.loads(raw, object_pairs_hook=_each_name_once)
    except _RepeatedError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def drops_nothing(raw: bytes, understood: Sequence[Event]) -> bool:
    """Whether all that has a value in `raw` is in the events that were `understood`; False also if that is not sure."""
    if _may_drop(raw):
        return False
    anew = _encode(understood)
    dropped = raw.count(b":") - anew.count(b":")
    return not dropped or (dropped > 0 and dropped == len(_NULL.findall(raw)) - len(_NULL.findall(anew)))


def _may_drop(raw: bytes) -> bool:
    return _ESCAPE in raw and _ESCAPED_COLON in raw


def _each_name_once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise _RepeatedError
    return names
