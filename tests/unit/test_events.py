"""The quick way through plain events and the models say the same of every event."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.event import NOT_PLAIN, Event
from session_bridge.contract.models import MODELS
from session_bridge.drain import understand
from session_bridge.drain.understand import Understanding
from session_bridge.drain.values import MAX_DEPTH

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 2**31, -(2**31) - 1, 2**63, 1e308])
value = st.none() | st.booleans() | number | text | st.lists(st.integers(), max_size=2) | st.just({"a": 1})
names = sorted({name for model in MODELS.values() for name in model.known})
chunk = st.dictionaries(st.sampled_from(["content", "score", "chunk_index", "filename", "new"]), value, max_size=4)
likely = {
    "role": st.sampled_from(["user", "assistant", "agent"]),
    "content": text,
    "metric_type": st.sampled_from(["llm_ttfb", "llm_prompt_tokens", "own", ""]),
    "unit": st.sampled_from(["ms", "s", None]),
    "value": number,
    "timestamp": st.sampled_from(
        [
            *("2026-11-21T10:00:00+00:00", "2026-11-21T10:00:00.120Z", "2026-11-21T15:30:00+05:30"),
            *("2026-11-21 10:00", 1763720000, "", None, "never"),
        ]
    ),
    "chunks": st.lists(chunk, max_size=3),
    "to_node_id": text,
    "query_text": text,
    "interrupted_at_turn": st.integers(0, 9),
    "identity": text,
    "turn_number": st.integers(0, 9) | st.just("3"),
    "usage": st.sampled_from([12, "0.5", 5.551115123125783e-17, 1.2345678901234567e-09, 1e-30, "1e1000000"]),
}
events = st.fixed_dictionaries(
    {}, optional={name: likely.get(name, value) | value for name in names} | {"unknown": value}
)


def refuse(*_: object) -> None:
    raise ValueError("not this way")


def told(fields: dict[bytes, bytes]) -> Any:
    call = Understanding().call("CA1", fields, {})
    rejects = sorted((reject.field, reject.raw, reject.reason) for reject in call.rejects)
    kept: dict[str, list[Any]] = {}
    for family in call.events:
        for event in call.of(family):
            data = msgspec.structs.asdict(event)
            for name in MODELS[family].json_columns:
                data[name] = data[name] and json.loads(data[name])
            if "chunks" in data:
                data["chunks"] = [msgspec.structs.asdict(part) for part in data["chunks"] or []]
            kept.setdefault(family, []).append(data)
    return kept, rejects, call.doubtful


def told_slowly(fields: dict[bytes, bytes]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(understand, "read_plain", refuse)
        return told(fields)


@pytest.mark.parametrize("family", [*MODELS])
@given(event=events)
def test_what_is_read_quickly_is_read_as_the_models_read_it(family: str, event: dict[str, Any]) -> None:
    fields = {f"{family}:1".encode(): json.dumps(event).encode()}
    assert told(fields) == told_slowly(fields)


EVERYDAY: dict[str, dict[str, Any]] = {
    "message": {"role": "user", "content": "hello", "timestamp": "2026-11-21T10:00:00+00:00", "start_ms": 12},
    "metric": {"metric_type": "llm_ttfb", "value": 320, "unit": "ms", "turn_number": 4},
    "rag": {"query_text": "opening hours", "top_k": 5, "chunks": [{"chunk_id": "7", "content": "9 to 5"}]},
}
everyday = st.sampled_from(list(EVERYDAY.items()))
ids = st.sampled_from(["1", "2", "01J", "no id", ""])


@given(st.lists(st.tuples(everyday | st.tuples(st.sampled_from([*MODELS]), events), ids), max_size=6))
def test_what_is_read_together_is_read_as_each_is_by_itself(
    several: list[tuple[tuple[str, dict[str, Any]], str]],
) -> None:
    fields = {f"{family}:{name}".encode(): json.dumps(event).encode() for (family, event), name in several}
    assert told(fields) == told_slowly(fields)


@pytest.mark.parametrize("family", [*EVERYDAY])
def test_what_agents_write_every_day_is_read_quickly(family: str) -> None:
    assert isinstance(MODELS[family].decode(json.dumps(EVERYDAY[family]).encode()), Event)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"role":"user","content":"x","new":1}',
        b'{"role":"user","content":"x","turn_number":"3"}',
        b"[]",
        b"{",
        b"\xff",
    ],
)
def test_what_is_not_plain_is_left_to_the_models(raw: bytes) -> None:
    with pytest.raises(NOT_PLAIN):
        MODELS["message"].decode(raw)


@pytest.mark.parametrize("kind", ["[%s]", '{"a":%s}'])
@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 60])
def test_a_document_in_an_event_is_read_up_to_a_depth(kind: str, levels: int) -> None:
    before, after = kind.split("%s")
    # The event is a level of its own.
    raw = f'{{"name":"t","arguments":{before * levels}1{after * levels}}}'.encode()
    kept, rejects, _ = told({b"tool:1": raw})
    assert (len(kept), len(rejects)) == ((1, 0) if levels < MAX_DEPTH else (0, 1))
