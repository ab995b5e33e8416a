from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

from session_bridge.contract.times import parse_time
from session_bridge.recorder.moments import Moments

SECOND = 1_000_000_000


def clock_of(*moments: int) -> Callable[[], int]:
    return iter(moments).__next__


def test_time_and_id_name_the_same_moment() -> None:
    now = datetime(2026, 11, 21, 22, 51, 39, 123456, UTC)
    text, ulid = Moments(lambda: int(now.timestamp()) * SECOND + 123_456_789).stamp()
    assert text == "2026-11-21T22:51:39.123456+00:00"
    assert parse_time(text) == now
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", ulid)
    milliseconds = 0
    for letter in ulid[:10]:
        milliseconds = milliseconds * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    assert milliseconds == int(now.timestamp()) * 1000 + 123


def test_texts_sort_as_their_moments() -> None:
    moments = Moments(clock_of(5 * SECOND, 5 * SECOND + 1000, 9 * SECOND, 10 * SECOND))
    texts = [moments.text() for _ in range(4)]
    assert texts == sorted(texts)
    assert len({len(text) for text in texts}) == 1


def test_ids_grow_within_a_millisecond_and_when_the_clock_steps_back() -> None:
    moments = Moments(clock_of(*([7 * SECOND] * 3000), *([6 * SECOND] * 3000)))
    ids = [moments.stamp()[1] for _ in range(6000)]
    assert ids == sorted(set(ids))


def test_ids_do_not_repeat_when_the_counter_is_full() -> None:
    moments = Moments(lambda: 7 * SECOND)
    ids = {moments.stamp()[1] for _ in range((1 << 20) + 10)}
    assert len(ids) == (1 << 20) + 10


def test_two_processes_make_different_ids() -> None:
    first, second = (Moments(lambda: 7 * SECOND).stamp()[1] for _ in range(2))
    assert first[:10] == second[:10]
    assert first[10:] != second[10:]


def test_a_fork_draws_its_own_random_part() -> None:
    moments = Moments(lambda: 7 * SECOND)
    before = moments.stamp()[1]
    moments.renew()
    assert moments.stamp()[1][10:22] != before[10:22]


def test_jitter_lies_between_a_half_and_one() -> None:
    assert all(0.5 <= Moments().jitter() <= 1 for _ in range(100))
