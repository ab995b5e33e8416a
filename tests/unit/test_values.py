"""JSON and text as PostgreSQL can hold them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.drain.values import MAX_DEPTH, clean_text, dump_json, load_json, read_text

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
any_text = st.text(st.one_of(st.characters(), st.sampled_from("\x00\ud800\udc00\udbff\ufffd")), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)


def values(strings: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    plain = st.one_of(st.none(), st.booleans(), st.integers(), finite, strings)
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4), max_leaves=10
    )


@given(values(text), st.booleans())
def test_json_is_read_as_it_was_written_and_nothing_is_said_to_be_replaced(value: Any, escaped: bool) -> None:
    raw = json.dumps(value, ensure_ascii=escaped).encode()
    assert load_json(raw) == (value, False)
    assert json.loads(dump_json(value)) == value


@given(values(any_text))
def test_json_is_always_read_as_something_that_postgresql_can_hold(value: Any) -> None:
    read, replaced = load_json(json.dumps(value).encode())
    written = dump_json(read)
    assert "\\u0000" not in written
    assert written.encode()
    if "\\u0000" in json.dumps(value):
        assert replaced


@given(any_text)
def test_text_is_cleaned_of_nothing_but_what_cannot_be_held(dirty: str) -> None:
    cleaned = clean_text(dirty)
    assert "\x00" not in cleaned
    assert cleaned.encode().decode() == cleaned
    assert clean_text(cleaned) == cleaned
    try:
        dirty.encode()
    except UnicodeEncodeError:
        assert cleaned != dirty
    else:
        assert cleaned == dirty.replace("\x00", "")


@given(st.binary(max_size=30))
def test_any_bytes_are_read_as_text_and_a_change_is_told(raw: bytes) -> None:
    read, replaced = read_text(raw)
    assert (read.encode() == raw) is not replaced


def test_a_surrogate_pair_that_was_escaped_apart_is_one_character() -> None:
    assert clean_text("\ud83d\ude42") == "\U0001f642"
    assert load_json(b'"\\ud83d\\ude42"') == ("\U0001f642", False)
    assert load_json(b'"\\ude42\\ud83d"') == ("\ufffd\ufffd", True)


def test_a_replacement_character_that_was_written_is_text_like_any_other() -> None:
    assert load_json('"\ufffd"'.encode()) == ("\ufffd", False)
    assert load_json(b'"\xff"') == ("\ufffd", True)
    assert read_text("\ufffd".encode()) == ("\ufffd", False)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"NaN", b"[Infinity]", b'{"a":-Infinity}', b"1e400", b"-1e999", b"tru", b"'a'", b'{"a":1,}',
     b"1" * 5000, b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_what_is_no_json_or_no_number_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|JSON|number|digit|BOM|Illegal|Exceeds|enclosed"):
        load_json(raw)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": [{"b": float("-inf")}]}])
def test_a_number_that_is_none_is_never_written(value: Any) -> None:
    with pytest.raises(ValueError, match="number"):
        dump_json(value)


def test_the_words_nan_and_infinity_are_words() -> None:
    assert json.loads(dump_json({"NaN": ["Infinity", 1.5]})) == {"NaN": ["Infinity", 1.5]}


@pytest.mark.parametrize("kind", [b"[%s]", b'{"a":%s}'])
def test_json_is_read_up_to_a_depth_and_refused_beyond(kind: bytes) -> None:
    def nested(levels: int) -> bytes:
        before, after = kind.split(b"%s")
        return before * levels + b"1" + after * levels

    value, _ = load_json(nested(MAX_DEPTH))
    assert dump_json(value).encode() == nested(MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, 990, 1000, 100_000):
        with pytest.raises(ValueError, match="deep"):
            load_json(nested(levels))
