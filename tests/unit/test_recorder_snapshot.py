from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.recorder.snapshot import event_id_of, json_bytes, state_bytes

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


class Colour(Enum):
    RED = "red"


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Brittle(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        raise RuntimeError("no")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")

    def __len__(self) -> int:
        return 1


def repr_or_type(value: object) -> str:
    return type(value).__name__


@given(JSON_VALUES)
def test_what_json_can_hold_comes_back_equal(value: object) -> None:
    assert json.loads(json_bytes(value)) == value


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (datetime(2026, 11, 21, 22, 51, tzinfo=UTC), "2026-11-21T22:51:00+00:00"),
        (datetime(2026, 11, 21, 22, 51), "2026-11-21T22:51:00+00:00"),  # noqa: DTZ001
        (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T00:00:00+02:00"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Colour.RED, "red"),
        (b"\xffraw", "\\xffraw"),
        ((1, 2), [1, 2]),
        ({3}, [3]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (float("nan"), "nan"),
        ([float("-inf"), {"x": object}], ["-inf", {"x": "<class 'object'>"}]),
        ({(1, 2): "tuple key"}, {"(1, 2)": "tuple key"}),
        ("\ud800", "\ud800"),
        ({"\ud800": 1}, {"\ud800": 1}),
        (Unshowable(), "<Unshowable that cannot be shown>"),
        ([10**5000], ["<int that cannot be shown>"]),
    ],
    ids=repr_or_type,
)
def test_what_json_has_no_form_for_is_kept_as_its_text(value: object, stored: object) -> None:
    assert json.loads(json_bytes({"v": value})) == {"v": stored}


def test_a_value_that_holds_itself_or_breaks_when_read_is_still_recorded() -> None:
    ring: list[object] = [1]
    ring += [ring, ring]
    deep: object = "end"
    for _ in range(100_000):
        deep = [deep]
    for value in (ring, deep, Brittle()):
        assert json.loads(json_bytes({"v": value, "text": "kept"}))["text"] == "kept"
    while isinstance(deep, list):  # taken apart by hand, lest the collector recurse
        deep = deep.pop()


def test_an_odd_type_is_said_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        pass

    with caplog.at_level(logging.WARNING, "session_bridge.recorder"):
        for _ in range(3):
            json_bytes([Odd(), Odd()])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("zażółć", "zażółć".encode()),
        (True, b"true"),
        (12, b"12"),
        (1.5, b"1.5"),
        (Colour.RED, b"red"),
        (datetime(2026, 1, 1, tzinfo=UTC), b"2026-01-01T00:00:00+00:00"),
        ({"a": [1]}, b'{"a":[1]}'),
        ([], b"[]"),
        (b"\x00\xff", b"\x00\xff"),
        ("\udfff", b"\\udfff"),
    ],
)
def test_state_is_plain_text_and_containers_are_json(value: object, stored: bytes) -> None:
    assert state_bytes(value) == stored


@given(st.text(min_size=0, max_size=200))
def test_any_name_becomes_a_legal_event_id_and_always_the_same(name: str) -> None:
    event_id = event_id_of(name)
    assert 1 <= len(event_id) <= 64
    assert event_id_of(event_id) == event_id == event_id_of(name)


def test_a_legal_name_is_its_own_id_and_similar_illegal_names_differ() -> None:
    assert event_id_of("RE0123.a_b-c") == "RE0123.a_b-c"
    assert event_id_of("a b") != event_id_of("a/b")
