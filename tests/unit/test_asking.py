"""What is typed and what is drawn: times in the past, bars, lines, and the parts of a transcript."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.cli.since import SINCE
from session_bridge.cli.stats import bar, sparkline
from session_bridge.contract import ids
from session_bridge.upkeep.embed import MOST_PARTS, PART_CHARACTERS, parts_of


@pytest.mark.parametrize(
    ("typed", "ago"),
    [("30m", timedelta(minutes=30)), ("12h", timedelta(hours=12)), ("7d", timedelta(days=7)), ("2w", timedelta(14))],
)
def test_how_long_ago(typed: str, ago: timedelta) -> None:
    assert abs(ids.now() - ago - SINCE.convert(typed, None, None)) < timedelta(minutes=1)


def test_dates_are_utc_unless_they_say_otherwise() -> None:
    assert SINCE.convert("2026-11-01", None, None) == datetime(2026, 11, 1, tzinfo=UTC)
    assert SINCE.convert("2026-11-01T10:00+05:30", None, None) == datetime(2026, 11, 1, 4, 30, tzinfo=UTC)


@pytest.mark.parametrize("typed", ["", "yesterday", "7", "d7", "-7d", "999999w", "2026-13-01", "7d x"])
def test_what_is_no_time(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="7d"):
        SINCE.convert(typed, None, None)


def test_bars_grow_by_eighths_and_the_least_is_seen() -> None:
    assert bar(0, 10) == ""
    assert bar(10, 10, 4) == "████"
    assert bar(5, 10, 4) == "██"
    assert bar(1, 10_000, 4) == "▏"
    assert bar(9, 16, 2) == "█▏"


def test_lines_go_from_the_least_to_the_greatest_and_have_gaps() -> None:
    assert sparkline([1, None, 8]) == "▁ █"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([0, 50, 100]) == "▁▅█" or sparkline([0, 50, 100]) == "▁▄█"


@given(st.text(alphabet="ab \n", max_size=3 * PART_CHARACTERS))
def test_the_parts_of_a_transcript_are_the_transcript(text: str) -> None:
    parts = list(parts_of(text))
    assert "".join(part for _, part in parts) == text
    assert all(0 < len(part) <= PART_CHARACTERS for _, part in parts)
    assert all(text[place - 1 : place - 1 + len(part)] == part for place, part in parts)


def test_an_endless_transcript_has_so_many_parts_and_no_more() -> None:
    assert len(list(parts_of("x" * PART_CHARACTERS * 150))) == MOST_PARTS
