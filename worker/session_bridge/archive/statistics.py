"""The archive in numbers, over a time: by day, by hour or by agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from session_bridge.archive.connection import ArchiveConnections, fetch

By: TypeAlias = Literal["agent", "day", "hour"]

_STEPS = {"day": (timedelta(days=1), "%Y-%m-%d"), "hour": (timedelta(hours=1), "%Y-%m-%d %H:00")}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Calls in numbers: times in seconds, latencies in milliseconds, the cost in cents.

    `avg_latency_ms` is the mean of the calls' own means from the user's last word to the agent's first;
    `p95_latency_ms` is what 95 in 100 calls stayed below with theirs. None where nothing was measured.
    """

    calls: int = 0
    completed: int = 0
    failed: int = 0
    talk_seconds: float | None = None
    avg_duration_seconds: float | None = None
    avg_latency_ms: float | None = None
    p95_latency_ms: float | None = None
    messages: int = 0
    interruptions: int = 0
    llm_tokens: int | None = None
    cost_cents: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of all calls of a time, and of each part of it, by its name; days and hours are in UTC.

    A day or an hour without a call is there with zeros. The agent that nobody named is "".
    """

    since: datetime
    until: datetime
    by: By
    total: Numbers
    parts: dict[str, Numbers]


async def statistics(
    connections: ArchiveConnections,
    since: datetime,
    until: datetime,
    by: By,
    *,
    tenant: str | None = None,
    agent: str | None = None,
) -> Statistics:
    """The calls that began from `since` to before `until`; the time is that of the session's id."""
    parameters = {"since": since, "until": until, "by": by, "tenant": tenant, "agent": agent}
    async with connections.transaction() as connection:
        rows = await fetch(connection, "stats", **parameters)
    found = {bucket: _numbers(cells) for bucket, *cells in rows}
    total = found.pop(None, Numbers())
    if by == "agent":
        ordered = sorted(found.items(), key=lambda part: (-part[1].calls, part[0]))
        return Statistics(since, until, by, total, dict(ordered))
    return Statistics(
        since, until, by, total, {name: found.get(name, Numbers()) for name in _buckets(since, until, by)}
    )


def _numbers(cells: list[Any]) -> Numbers:
    # A sum over no call is null.
    return Numbers(**{name: cell for name, cell in zip(_NAMES, cells, strict=True) if cell is not None})


_NAMES = [field.name for field in fields(Numbers)]


def _buckets(since: datetime, until: datetime, by: Literal["day", "hour"]) -> Iterator[str]:
    step, form = _STEPS[by]
    moment = since.replace(minute=0, second=0, microsecond=0)
    if by == "day":
        moment = moment.replace(hour=0)
    while moment < until:
        yield moment.strftime(form)
        moment += step
