"""A name that comes twice in one JSON object: the last value is archived, and the raw bytes are kept in a reject."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.fields import Family
from session_bridge.drain.repeats import repeats_a_name
from session_bridge.drain.understand import Understanding

SAID = '"role": "user", "content": "said"'
REPEATS = {
    "message:1": f'{{{SAID}, "content": "again"}}',
    "message:2": f'{{{SAID}, "cont\\u0065nt": "again"}}',
    "message:3": f'{{"content"\t: "first", {SAID}}}',
    "message:4": f'{{"content": "14\\u003a30\\u003A10", {SAID}}}',
    "message:5": f'{{"content": {{"a": 1}}, {SAID}}}',
    "message:6": f'{{{SAID}, "own": 1, "own": 2}}',
    "message:7": f'{{{SAID}, "node_id": "n", "node_id": null}}',
    "message:8": f'{{{SAID}, "role": "agent"}}',
    "message:9": '{"role": "user", "content": "lone \\ud800", "content": "again"}',
    "metric:1": '{"metric_type": "llm_ttfb", "value": 1, "value": 2}',
    "metric:2": '{"metric_type": "llm_ttfb", "value": 1, "unit": "ms", "unit": null}',
    "rag:1": '{"query_text": "q", "chunks": [{"content": "a:b", "content": "c"}, {"content": "d"}]}',
    "rag:2": '{"query_text": "q", "query_params": {"k": {"a": 1, "a": 2}}}',
    "tool:1": '{"name": "t", "arguments": {"a": 1, "a": 2}}',
    "participant:1": '{"identity": "p", "joined_at": "2026-11-20T10:00:00Z", "joined_at": "2026-11-20"}',
    "cost:1": '{"service": "stt", "usage": 1, "usage": "2"}',
    "dtmf:1": '{"digit": 1, "digit": 2}',
    "collected_data": '{"name": "x", "name": "y"}',
    "transcript_history": f'[{{{SAID}, "content": "again"}}]',
}
NONE = {
    "message:1": f"{{{SAID}}}",
    "message:2": '{"role": "user", "content": "at 10:30, \\"content\\": \\u003a :"}',
    "message:3": f'{{{SAID}, "node_id": null, "own": {{"role": 1, "content": 2}}}}',
    "metric:1": '{"metric_type": "llm_ttfb", "value": 1}',
    "metric:2": '{"metric_type": "llm_ttfb", "value": 1, "unit": ""}',
    "metric:3": '{"metric_type": "llm_ttfb", "value": 1, "unit": null}',
    "rag:1": '{"query_text": "q", "chunks": [{"content": "a:b"}, {"content": "d"}]}',
    "participant:1": '{"identity": "p", "joined_at": "2026-11-20"}',
    "tool:1": '{"name": "t", "arguments": {"a": [{"a": 1}, {"a": 2}]}}',
    "dtmf:1": '{"digit": [{"digit": 2}]}',
    "collected_data": '{"name": "x", "x": {"name": "y"}}',
}


def rejected(fields: dict[str, str]) -> dict[bytes, bytes | None]:
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    call = Understanding().call("CA1", raw, {})
    assert all(reject.cleaned for reject in call.rejects)
    kept = len(call.history) + len(call.documents) + len(call.unknown_events) + sum(map(len, call.events.values()))
    assert kept == len(fields), "each is archived all the same"
    return {reject.field: reject.raw for reject in call.rejects}


@pytest.mark.parametrize("field", REPEATS)
def test_what_repeats_a_name_is_kept_raw(field: str) -> None:
    assert rejected({field: REPEATS[field]}) == {field.encode(): REPEATS[field].encode()}


@pytest.mark.parametrize("field", NONE)
def test_what_repeats_none_is_not(field: str) -> None:
    assert rejected({field: NONE[field]}) == {}


def test_it_is_found_among_many() -> None:
    many = {f"message:a{number}": f'{{{SAID}, "turn_number": {number}}}' for number in range(450)}
    many |= {f"tool:a{number}": '{"name": "t", "arguments": {"a": 1}}' for number in range(450)}
    assert rejected({**many, **REPEATS}).keys() == {name.encode() for name in REPEATS}


NAMES = st.sampled_from(["a", "b", ":", '"', "ł", "\x00"])
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.sampled_from([":", '"a":', "\\u003a"]),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=3).map(tuple),
    max_leaves=10,
)


def written(tree: Any, *, escaped: bool) -> str:
    """JSON of a tree in which an object is a tuple of its names and values."""
    if isinstance(tree, list):
        return f"[{','.join(written(one, escaped=escaped) for one in tree)}]"
    if isinstance(tree, tuple):
        pairs = (f"{json.dumps(name)}: {written(value, escaped=escaped)}" for name, value in tree)
        return f"{{{', '.join(pairs)}}}"
    text = json.dumps(tree)
    return text.replace(":", "\\u003a") if escaped else text


def has_repeats(tree: Any) -> bool:
    if isinstance(tree, tuple):
        return len({name for name, _ in tree}) < len(tree) or any(has_repeats(value) for _, value in tree)
    return isinstance(tree, list) and any(map(has_repeats, tree))


@given(TREES, st.booleans())
def test_every_repeat_is_seen_and_nothing_else(tree: Any, escaped: bool) -> None:
    assert repeats_a_name(written(tree, escaped=escaped).encode()) is has_repeats(tree)


def test_a_writers_own_field_of_a_name_that_the_bridge_gives_is_not_written_over() -> None:
    fields = {
        b"message:1": b'{"role": "agent", "role_raw": "own", "content": "x"}',
        b"message:2": b'{"role": "user", "timestamp": "never", "timestamp_raw": "own", "content": "x"}',
        b"started_at_raw": b"own",
        b"started_at": b"never",
    }
    call = Understanding().call("CA1", fields, {})
    first, second = call.of(Family.MESSAGE)
    assert json.loads(str(first.extra)) == {"role_raw": "own"}
    assert json.loads(str(second.extra)) == {"timestamp_raw": "own", "timestamp_raw_": "never"}
    assert call.extra == {"started_at_raw": "own"}
    assert {reject.field: reject.raw for reject in call.rejects} == {
        b"message:1": fields[b"message:1"],
        b"started_at": b"never",
    }
