"""Whether JSON gives one name twice in one object: every reader keeps the last value, and drops the others.

That is seen without reading the JSON a second time. A name comes with a colon, and a colon within a text is a colon
again when that text is written anew. So what was understood, written anew, has as many colons as the JSON it came
from, unless something was dropped; only then is it looked at more closely.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import msgspec
from pydantic import JsonValue

from session_bridge.contract.plain import Fields

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
# A colon that is escaped, and so is none in the text it came from.
_ESCAPE, _ESCAPED_COLON = b"\\", b"\\u003"
_AT_ONCE = 200


class _RepeatedError(Exception):
    """A name came twice."""


def repeats_a_name(raw: bytes) -> bool:
    """Whether an object in `raw` has a name twice; False also for what is no JSON."""
    try:
        if not _differs(raw, _decode(raw)):
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


def plain_that_repeat(events: Sequence[tuple[bytes, bytes, Fields, bool]]) -> Iterator[tuple[bytes, bytes]]:
    """Field and value of those among plain events that repeat a name.

    Each comes with what was decoded from it, and whether one field of that was given a value since and had none.
    """
    # By the hundred it takes a third of the time.
    for start in range(0, len(events), _AT_ONCE):
        fields, raws, understood, added = zip(*events[start : start + _AT_ONCE], strict=True)
        if _differs(b"".join(raws), understood, sum(added)):
            yield from ((field, raw) for field, raw in zip(fields, raws, strict=True) if repeats_a_name(raw))


def others_that_repeat(events: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Field and value of those among events that repeat a name."""
    for start in range(0, len(events), _AT_ONCE):
        some = events[start : start + _AT_ONCE]
        if repeats_a_name(b"[%b]" % b",".join(raw for _, raw in some)):
            yield from ((field, raw) for field, raw in some if repeats_a_name(raw))


def _differs(raw: bytes, understood: object, added: int = 0) -> bool:
    same = _encode(understood).count(b":") - added == raw.count(b":")
    return not same or (_ESCAPE in raw and _ESCAPED_COLON in raw)


def _each_name_once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise _RepeatedError
    return names
