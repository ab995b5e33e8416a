"""How a moment may be written in a live session, and what it means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from typing import cast

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Epoch numbers from here on are milliseconds: as seconds this would be the year 5138, as milliseconds it is 1973.
_FIRST_MILLISECOND = 100_000_000_000
# Beyond these no call was ever made, and durations and months computed from them would be nonsense.
EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_FIRST_DAY, _LAST_YEAR = "1970-01-02", "2200"
# Only this form: ISO 8601 has others of the same length, which sort elsewhere or which PostgreSQL does not read. Nor
# may the hour be 24, which since 3.14 Python takes for midnight.
_CANONICAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?!24)[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{6})?\+00:00")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
# The forms that most languages write, with a zero for every digit, and how each becomes the canonical one.
_EVERYDAY = {
    b"0000-00-00T00:00:00Z\n": ("Z", "+00:00"),
    b"0000-00-00T00:00:00.000Z\n": ("Z", "000+00:00"),
    b"0000-00-00T00:00:00.000000Z\n": ("Z", "+00:00"),
    b"0000-00-00T00:00:00+00:00\n": ("", ""),
    b"0000-00-00T00:00:00.000+00:00\n": ("+", "000+"),
    b"0000-00-00T00:00:00.000000+00:00\n": ("", ""),
}
_UTC, _ZERO = "+00:00\n", ".000000+"
_HOUR_24 = "T24"


def canonical_times(moments: Sequence[object]) -> list[str] | None:
    """What `canonical_time` returns for each of `moments`, at least one; None if each has to be looked at by itself.

    It is a quick look at all of them together, at one of the forms that most languages write, in UTC and to seconds, to
    milli- or to microseconds; of moments in several forms it says None.
    """
    try:
        lines = "\n".join(moments) + "\n"  # type: ignore[arg-type]  # what is no text raises
        forms = lines.encode().translate(_DIGITS)
        form = forms[: forms.index(b"\n") + 1]
        if form not in _EVERYDAY or forms != form * len(moments) or _HOUR_24 in lines:
            return None
        if "+" in lines and lines.count(_UTC) != len(moments):
            return None  # the zeros of an offset are none here
        # Whether there is such a day and hour.
        list(map(datetime.fromisoformat, cast("Sequence[str]", moments)))
    except (TypeError, ValueError):
        return None
    ending, canonical = _EVERYDAY[form]
    if ending:
        lines = lines.replace(ending, canonical)
    canonical_moments = lines.replace(_ZERO, "+").splitlines()
    in_range = min(canonical_moments) >= _FIRST_DAY and max(canonical_moments) < _LAST_YEAR
    return canonical_moments if in_range else None


def canonical_time(value: object, zone: tzinfo = UTC) -> str:
    """The moment that `value` names, as `2026-11-21T10:00:00[.123456]+00:00`; raises ValueError as `parse_time` does.

    All texts of this one form sort as the moments they name.
    """
    if isinstance(value, str) and _CANONICAL.fullmatch(value) and _FIRST_DAY <= value < _LAST_YEAR:
        # Most writers' own form: it is only looked at, not taken apart and put together again.
        datetime.fromisoformat(value)
        return value.replace(_ZERO, "+")
    return parse_time(value, zone).isoformat()


def parse_time(value: object, zone: tzinfo = UTC) -> datetime:
    """The moment that `value` names, in UTC; raises ValueError if it names none or one outside 1970 to 2200.

    Understood are ISO 8601 text (without an offset it is in `zone`) and epoch seconds or milliseconds, as a number
    or as text.
    """
    if isinstance(value, str):
        moment = _from_text(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        moment = _from_epoch(value)
    else:
        raise ValueError(  # noqa: TRY004  # to callers every unreadable time is the same trouble
            f"not a time: {type(value).__name__}; write ISO 8601 or epoch seconds or milliseconds"
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time outside the years 1970 to 2200") from None
    if not EARLIEST <= moment <= LATEST:
        raise ValueError("a time outside the years 1970 to 2200")
    return moment


def _from_text(text: str) -> datetime:
    text = text.upper() if text.endswith("z") else text  # as RFC 3339 allows it
    # To ISO 8601 a run of digits may be a date, but to everybody who writes calls it is an epoch.
    if text[4:5] == "-":
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    try:
        number = float(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("not a time; write ISO 8601 or epoch seconds or milliseconds") from None
    return _from_epoch(number)


def _from_epoch(number: float) -> datetime:
    if not 0 <= number < _FIRST_MILLISECOND * 1000:
        raise ValueError("a time outside the years 1970 to 2200")
    if number >= _FIRST_MILLISECOND:
        return _EPOCH + timedelta(milliseconds=number)
    return _EPOCH + timedelta(seconds=number)
