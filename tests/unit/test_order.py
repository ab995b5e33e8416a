"""Events are ordered by time, then by id; one without a time follows the one before it by id."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.event import Event
from session_bridge.drain.order import in_order

ids = st.one_of(
    st.integers(0, 10**20).map(str), st.from_regex(r"[A-Za-z0-9_.-]{1,5}", fullmatch=True), st.just("0"), st.just("00")
)
seconds = st.one_of(st.none(), st.integers(0, 3))


def events(times: dict[str, int | None]) -> list[Event]:
    start = datetime(2026, 11, 20, tzinfo=UTC)
    return [
        Event(
            event_id=name,
            timestamp=None if at is None else (start + timedelta(seconds=at, microseconds=at % 2)).isoformat(),
        )
        for name, at in times.items()
    ]


def ordered(times: dict[str, int | None]) -> list[str]:
    return [event.event_id for event in in_order(events(times))]


def test_time_comes_before_id_and_numbers_are_numbers() -> None:
    assert ordered({"b": 1, "a": 2, "c": 0}) == ["c", "b", "a"]
    assert ordered({"10": 0, "9": 0, "a": 0, "100": 0, "1": 0}) == ["1", "9", "10", "100", "a"]
    assert ordered({"10": None, "9": None, "2": None}) == ["2", "9", "10"]


def test_an_event_without_a_time_follows_the_one_before_it_by_id() -> None:
    assert ordered({"1": 5, "2": None, "3": 1, "4": None}) == ["3", "4", "1", "2"]
    assert ordered({"1": None, "2": 0}) == ["1", "2"]


@given(st.dictionaries(ids, seconds, max_size=8), st.randoms())
def test_the_order_is_that_of_the_events_and_not_of_their_arrival(times: dict[str, int | None], chance: object) -> None:
    shuffled = list(times.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ordered(dict(shuffled)) == ordered(times)
    assert sorted(ordered(times)) == sorted(times)


@given(st.dictionaries(ids, st.integers(0, 3), max_size=8))
def test_known_times_never_decrease(times: dict[str, int]) -> None:
    moments = [times[name] for name in ordered(dict(times))]
    assert moments == sorted(moments)


@given(st.sets(st.integers(0, 10**30), max_size=10))
def test_numeric_ids_of_one_moment_are_in_the_order_of_numbers(numbers: set[int]) -> None:
    assert ordered(dict.fromkeys(map(str, numbers), 0)) == [str(number) for number in sorted(numbers)]
