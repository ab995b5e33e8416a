"""Live sessions that no sane writer makes, drawn by Hypothesis: any bytes, any JSON, any mixture of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

from session_bridge.contract.fields import DOCUMENTS, STATE_FIELDS, Family
from session_bridge.contract.models import CHUNK_KNOWN, MODELS

Session = dict[bytes, bytes]
_Draw = Callable[[st.SearchStrategy[Any]], Any]
_DEEPEST = 3

_NASTY_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "\ud800",
        "\ufffd",
        "\\N",
        "\\.",
        "\t\n\r",
        "\x1d\x1e\x1f",
        "NaN",
        "null",
        "1e400",
        "ł\u202e🙂",
        "{",
        '"',
    ]
)
_TEXTS = st.text(max_size=20) | _NASTY_TEXTS
_NUMBERS = (
    st.sampled_from(
        [b"0", b"-0", b"-0.0", b"1e400", b"-1e400", b"1e-400", b"NaN", b"Infinity", b"1E5", b"2147483648",
         b"9223372036854775808", b"99999999999999", b"1" * 25, b"9" * 400, b"7" * 5000, b"0.1234567890123", b"01",
         b"1.", b"1763632800", b"1763632800123"]
    )
    | st.integers().map(lambda number: b"%d" % number)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: repr(number).encode())
)  # fmt: skip
_MOMENTS = st.sampled_from(
    [
        "2026-11-20T10:00:00Z",
        "2026-11-20T10:00:00.123456+05:30",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "yesterday",
    ]
)
# Names that the bridge gives by itself.
_OURS = ("role_raw", "timestamp_raw", "joined_at_raw", "extra", "content", "session_id", "event_id", "sequence")
_WORDS = st.sampled_from([b"true", b"false", b"null", b"[]", b"{}", b"", b"}", b"tru"])
_WAYS = st.sampled_from(["as it is", "escaped", "spaced"])
_DEPTHS = st.sampled_from([5, 190, 205, 1_500, 50_000])
_ROLES = st.sampled_from(["user", "assistant", "agent", "Caller", "tool", "narrator", ""])
_METRICS = st.sampled_from(["llm_ttfb", "user_to_bot_latency", "own_type"])
_UNITS = st.sampled_from(["ms", "s", "parsec", ""])
_IDS = st.text("abcXYZ019_.-", min_size=1, max_size=4).map(str.encode) | st.sampled_from(
    [b"", b"x" * 65, b"\xff", b"a b"]
)


def _text(draw: _Draw, number: int) -> bytes:
    """A JSON text that no other field has."""
    text = f"{draw(_TEXTS)}§{number}.{draw(st.integers(0, 999))}"
    way = draw(_WAYS)
    if way == "escaped":
        return json.dumps(text).encode()
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _value(draw: _Draw, number: int, depth: int = 0) -> bytes:
    """Any JSON, or what only looks like it."""
    kind = draw(st.integers(0, 9 if depth < _DEEPEST else 6))
    if kind <= 2:  # noqa: PLR2004
        return _text(draw, number)
    if kind <= 4:  # noqa: PLR2004
        return bytes(draw(_NUMBERS))
    if kind == 5:  # noqa: PLR2004
        return bytes(draw(_WORDS))
    if kind == 6:  # noqa: PLR2004
        return json.dumps(draw(_MOMENTS)).encode()
    if kind == 7:  # noqa: PLR2004
        deep: int = draw(_DEPTHS)
        return b"[" * deep + b"]" * deep
    if kind == 8:  # noqa: PLR2004
        return b"[%b]" % b",".join(_value(draw, number, depth + 1) for _ in range(draw(st.integers(0, 3))))
    names = [draw(_TEXTS) for _ in range(draw(st.integers(0, 3)))]
    return _object([(name, _value(draw, number, depth + 1)) for name in names], draw(_WAYS))


def _object(pairs: list[tuple[str, bytes]], way: str) -> bytes:
    colon, comma = (b" :\t", b"\n,") if way == "spaced" else (b":", b",")
    written = []
    for name, value in pairs:
        if way == "escaped":
            quoted = b'"%b"' % b"".join(b"\\u%04x" % (unit % 65_536) for unit in map(ord, name))
        else:
            quoted = json.dumps(name, ensure_ascii=False).encode("utf-8", "surrogatepass")
        written.append(quoted + colon + value)
    return b"{%b}" % comma.join(written)


def _event(draw: _Draw, number: int) -> tuple[bytes, bytes]:
    family = draw(st.sampled_from(Family))
    model = MODELS[family]
    likely: dict[str, Callable[[], bytes]] = {
        "role": lambda: json.dumps(draw(_ROLES)).encode(),
        "metric_type": lambda: json.dumps(draw(_METRICS)).encode(),
        "unit": lambda: json.dumps(draw(_UNITS)).encode(),
        "timestamp": lambda: json.dumps(draw(_MOMENTS)).encode(),
        "value": lambda: draw(_NUMBERS),
        "interrupted_at_turn": lambda: b"%d" % number,
        "chunks": lambda: b"[%b]" % b",".join(_chunk(draw, number) for _ in range(draw(st.integers(0, 3)))),
    }
    needed = _needed(family)
    names = [*needed] if draw(st.integers(0, 9)) else []
    names = [*names, *draw(st.lists(st.sampled_from(sorted(model.known)), max_size=4))]
    names += [f"own {draw(_TEXTS)}" for _ in range(draw(st.integers(0, 2)))]
    names += draw(st.lists(st.sampled_from(_OURS), max_size=2))
    pairs = []
    for name in names:
        as_meant = name in likely and draw(st.integers(0, 3))
        simple = name in needed and draw(st.integers(0, 3))
        value = likely[name]() if as_meant else _text(draw, number) if simple else _value(draw, number)
        pairs.append((name, value))
    return b"%b:%b" % (family.encode(), draw(_IDS)), _object(pairs, draw(_WAYS))


def _needed(family: Family) -> tuple[str, ...]:
    return {
        Family.MESSAGE: ("role", "content"),
        Family.TRANSITION: ("to_node_id",),
        Family.METRIC: ("metric_type", "value"),
        Family.RAG: ("query_text", "chunks"),
        Family.EXTRACTION: ("variables_requested", "variables_extracted"),
        Family.INTERRUPTION: ("interrupted_at_turn",),
        Family.TOOL: ("name", "arguments"),
        Family.PARTICIPANT: ("identity",),
        Family.COST: ("service", "usage"),
        Family.RECORDING: ("recording_url",),
    }[family]


def _chunk(draw: _Draw, number: int) -> bytes:
    names = ["content", *draw(st.lists(st.sampled_from([*sorted(CHUNK_KNOWN), "own", "extra"]), max_size=3))]
    return _object([(name, _value(draw, number, 2)) for name in names], draw(_WAYS))


def _state(draw: _Draw, number: int) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(sorted(STATE_FIELDS | {"started_at_raw", "status_raw"})))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return name.encode(), draw(st.binary(max_size=20))
    if kind == 1:
        return name.encode(), draw(_NUMBERS | _WORDS | _MOMENTS.map(str.encode))
    return name.encode(), f"{draw(_TEXTS)}§{number}".encode("utf-8", "surrogatepass")


def _document(draw: _Draw, number: int) -> tuple[bytes, bytes]:
    name = draw(st.sampled_from(sorted(DOCUMENTS)))
    if name == "transcript_history" and draw(st.integers(0, 3)):
        items = [
            _object(
                [("role", b'"user"'), (draw(st.sampled_from(["content", "text"])), _value(draw, number, 2))], "as it is"
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        return name.encode(), b"[%b]" % b",".join(items)
    return name.encode(), _value(draw, number)


def _unknown(draw: _Draw, number: int) -> tuple[bytes, bytes]:
    name = draw(
        st.binary(min_size=1, max_size=12)
        | st.sampled_from([b"dtmf:1", b"mood:x", b"message", b"message:", b":", b"audio_1"])
    )
    return name, _value(draw, number) if draw(st.booleans()) else draw(st.binary(max_size=40))


def _broken(draw: _Draw, number: int) -> tuple[bytes, bytes]:
    """An event of which a piece is missing, or in which something strange stands."""
    field, raw = _event(draw, number)
    place = draw(st.integers(0, len(raw)))
    return field, raw[:place] + draw(
        st.sampled_from([b"", b"\xff", b"\x00", b"\xed\xa0\x80", b'"', b"\\u0000", b","])
    ) + raw[place + draw(st.integers(0, 2)) :]


_KINDS = (_event, _event, _event, _state, _document, _unknown, _broken)


@st.composite
def sessions(draw: _Draw) -> Session:
    """One live session: its fields and values as bytes."""
    fields: Session = {}
    for number in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(_KINDS))
        field, raw = partial(kind, draw)(number)
        fields.setdefault(field, raw)
    return fields
