"""A time in the past, as it is typed: `7d`, `12h`, `2026-11-01`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click

from session_bridge.contract import ids

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


class Since(click.ParamType[datetime]):
    """How long ago (m, h, d, w), or a date or time in ISO 8601; UTC if it has no offset."""

    name = "TIME"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment that was typed."""
        if isinstance(value, datetime):
            return value
        try:
            if ago := _AGO.fullmatch(value):
                return ids.now() - int(ago[1]) * _UNITS[ago[2]]
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time: write 7d, 12h, 30m or 2w ago, or a date like 2026-11-01", param, ctx)


SINCE = Since()
