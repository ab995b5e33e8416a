"""Time zones by their names. The two that are the defaults of settings are known without a database of zones."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, available_timezones

# India has had no other time since 1945.
_KNOWN: dict[str, tzinfo] = {"UTC": UTC, "Asia/Kolkata": timezone(timedelta(hours=5, minutes=30))}


def zone_of(name: str) -> tzinfo:
    """The zone of that name in the IANA database; raises ValueError if there is none, or no database."""
    if name in _KNOWN:
        return _KNOWN[name]
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # a name may also lead to a folder
        if not available_timezones():
            raise ValueError("no time zone database: install tzdata (pip install tzdata)") from error
        raise ValueError("no such time zone; write a name like Asia/Kolkata") from error
