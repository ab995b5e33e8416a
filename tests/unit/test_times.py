"""Moments in every form that writers have for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from session_bridge.contract.times import EARLIEST, LATEST, canonical_time, canonical_times, parse_time

moments = st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None), timezones=st.just(UTC))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, offsets)
def test_iso_8601_is_understood_in_any_offset(moment: datetime, offset: timezone) -> None:
    assert parse_time(moment.astimezone(offset).isoformat()) == moment
    assert parse_time(moment.isoformat().replace("+00:00", "Z").replace("T", " ")) == moment
    assert parse_time(moment.isoformat().replace("+00:00", "z").replace("T", "t")) == moment


@given(moments)
def test_epochs_are_understood_as_numbers_and_as_text(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    seconds = int(whole.timestamp())
    milliseconds = seconds * 1000 + 250
    later = whole + timedelta(milliseconds=250)
    for value in (seconds, float(seconds), str(seconds), f" {seconds} "):
        assert parse_time(value) == whole
    if milliseconds >= 100_000_000_000 and later <= LATEST:
        for value in (milliseconds, float(milliseconds), str(milliseconds), f"{milliseconds}.0"):
            assert parse_time(value) == later


def test_a_time_without_a_zone_is_in_the_one_given() -> None:
    kolkata = ZoneInfo("Asia/Kolkata")
    assert parse_time("2026-11-20 15:30", kolkata) == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert parse_time("2026-11-20T15:30Z", kolkata) == datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
    assert parse_time("2026-11-20T15:30") == datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    ["", "soon", "0001-01-01", "9999-12-31T23:59:59Z", "0001-01-01T00:00+14:00", -1, 0, -9e10, 1e300, float("nan"),
     float("inf"), "nan", "inf", True, None, [], {}, b"2026-11-20", 10**400, "2026-02-30", "-90000000000", "9" * 5000],
)  # fmt: skip
def test_what_names_no_moment_of_a_call_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(value)
    with pytest.raises(ValueError, match=r"time|format|range|must be"):
        canonical_time(value)


anything = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.,]{8,15}\+00:00", fullmatch=True),
    st.integers(),
    st.floats(),
    st.none(),
)


@given(anything)
@example("2026-11-20T10:00:00,123456+00:00")
@example("2026-11-20T100000.1+00:00")
@example("2026-11-20T10:00:00+00:00")
@example("2199-12-31T23:59:59.999999+00:00")
@example("2026-11-20T10:00:00.000000+00:00")
@example(-90_000_000_000)
def test_a_time_is_a_moment_between_1970_and_2200_or_a_value_error_and_nothing_else(value: Any) -> None:
    try:
        moment = parse_time(value)
    except ValueError:
        with pytest.raises(ValueError, match=r"time|format|range|must be"):
            canonical_time(value)
    else:
        assert EARLIEST <= moment <= LATEST
        assert canonical_time(value) == moment.isoformat()


@given(st.lists(st.one_of(moments, moments.map(lambda moment: moment.replace(microsecond=0))), max_size=6))
def test_canonical_times_sort_as_the_moments_they_name(several: list[datetime]) -> None:
    texts = [canonical_time(moment.isoformat()) for moment in several]
    assert [parse_time(text) for text in sorted(texts)] == sorted(several)


def _javascript(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


forms = st.sampled_from(
    [
        datetime.isoformat,
        _javascript,
        lambda moment: moment.isoformat(timespec="milliseconds"),
        lambda moment: moment.isoformat(timespec="microseconds"),
        lambda moment: moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        lambda moment: moment.isoformat() + "\n",
        lambda moment: moment.timestamp(),
        lambda moment: moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    ]
)


@given(st.lists(st.tuples(moments, forms), min_size=1, max_size=6))
@example([(datetime(2026, 11, 20, 10, tzinfo=UTC), _javascript), (datetime(2026, 11, 20, tzinfo=UTC), _javascript)])
@example([(datetime(2024, 2, 29, 10, tzinfo=UTC), _javascript)])
def test_many_times_at_once_are_what_each_is_by_itself(several: list[tuple[datetime, Any]]) -> None:
    written = [form(moment) for moment, form in several]
    together = canonical_times(written)
    assert together in (None, [canonical_time(one) for one in written])


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "microseconds"])
@pytest.mark.parametrize("zone", ["Z", "+00:00"])
def test_the_forms_that_most_languages_write_are_read_together(form: str, zone: str) -> None:
    moment = datetime(2026, 11, 20, 10, 0, 0, 120_000, tzinfo=UTC)
    written = [moment.isoformat(timespec=form).replace("+00:00", zone)] * 3
    assert canonical_times(written) == [canonical_time(one) for one in written]
    assert canonical_times([*written, ""]) is None


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "microseconds"])
@pytest.mark.parametrize("offset", [timedelta(hours=5, minutes=30), timedelta(hours=-3), timedelta(minutes=1)])
def test_no_offset_is_taken_for_utc(form: str, offset: timedelta) -> None:
    moment = datetime(2026, 11, 20, 10, 0, 0, 120_000, tzinfo=UTC)
    written = moment.astimezone(timezone(offset)).isoformat(timespec=form)
    assert canonical_times([written]) is None
    assert canonical_times([moment.isoformat(timespec=form), written]) is None
    assert canonical_time(written) == parse_time(moment.isoformat(timespec=form)).isoformat()


def test_midnight_as_the_hour_24_is_written_anew_or_refused() -> None:
    written = "2026-11-20T24:00:00+00:00"
    assert canonical_times([written, written]) is None
    try:
        # Python takes it for a time since 3.14.
        assert canonical_time(written) == "2026-11-21T00:00:00+00:00"
    except ValueError as error:
        assert "not a time" in str(error)  # noqa: PT017  # it depends on Python which of the two holds


@pytest.mark.parametrize(
    "odd",
    [
        "2026-11-31T10:00:00.000Z",
        "2026-11-20T10:00:60.000Z",
        "2026-11-20T10:61:00.000Z",
        "2026-13-20T10:00:00.000Z",
        "1970-01-01T10:00:00.000Z",
        "2200-01-01T00:00:00.000Z",
        "2026-11-20T10:00:00.00Z\n",
        "2026-11-20T10:00:00.00\nZ",
        "2026-11-20T10:00:00.0\u0660\u0660Z",
        "2026-11-20T10:00:00Z",
        "",
        1763632800,
        None,
    ],
)
def test_one_odd_moment_keeps_all_from_being_read_together(odd: object) -> None:
    plain = "2026-11-20T10:00:00.000Z"
    assert canonical_times([plain, plain]) == ["2026-11-20T10:00:00+00:00"] * 2
    assert canonical_times([plain, odd]) is None
    assert canonical_times([odd, plain]) is None
