"""Months that go: their calls retired in the book, their partitions dropped, tombstones left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import cast
from uuid import UUID

from psycopg import errors
from pydantic_core import to_json

from session_bridge.archive.connection import ArchiveConnections, fetch, run
from session_bridge.errors import ArchiveUnavailableError, LockedError

_CALLS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class PartitionSize:
    """One partition; `month` is None for a default one, `rows` an estimate, None where PostgreSQL never looked."""

    table: str
    partition: str
    month: date | None
    rows: int | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MonthNote:
    """What became of a month."""

    month: date
    retired_at: datetime
    dropped_at: datetime | None
    exported_to: str | None
    row_counts: dict[str, int] | None
    restored_at: datetime | None
    keep_until: date | None

    @property
    def is_exported(self) -> bool:
        """Whether its rows are in files, and nothing came to it since: it was retired and then exported."""
        since_restored = self.restored_at is None or self.retired_at > self.restored_at
        return self.exported_to is not None and self.dropped_at is None and since_restored


@asynccontextmanager
async def alone(connections: ArchiveConnections) -> AsyncIterator[bool]:
    """Whether nobody else works on this archive's months, for as long as the block runs."""
    async with connections.transaction() as connection:
        [[free]] = await fetch(connection, "try_upkeep")
        yield bool(free)


async def due_months(connections: ArchiveConnections, keep_months: int) -> list[tuple[date, int]]:
    """The months that are due to go, the oldest first, each with its calls in the book."""
    async with connections.transaction() as connection:
        months = [cast("date", row[0]) for row in await fetch(connection, "months_to_retire", keep_months=keep_months)]
        return [(month, (await fetch(connection, "month_rows", month=month))[0][0]) for month in months]


async def retire_calls(
    connections: ArchiveConnections, month: date, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Mark every call of a month as retired, so that no drain writes one any more; how many there are."""
    after: UUID | None = None
    total = 0
    while True:
        async with connections.transaction() as connection:
            found = await fetch(connection, "retire_calls", month=month, after=after, at_most=_CALLS_AT_ONCE)
        [[after, looked_at]] = found
        if not looked_at:
            return total
        total += looked_at
        progress(total)


async def forget_calls(
    connections: ArchiveConnections, month: date, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Put tombstones in the place of a month's calls, and take their rejects and dead sessions; how many there were."""
    total = 0
    while True:
        async with connections.transaction() as connection:
            [[forgotten]] = await fetch(connection, "forget_calls", month=month, at_most=_CALLS_AT_ONCE)
        if not forgotten:
            return total
        total += forgotten
        progress(total)


async def monthly_tables(connections: ArchiveConnections) -> list[str]:
    """The tables that have months."""
    async with connections.transaction() as connection:
        return [cast("str", row[0]) for row in await fetch(connection, "monthly_tables")]


async def drop_partition(connections: ArchiveConnections, table: str, month: date) -> bool:
    """Drop a table's partition of a month; False if the table is in use, and nothing was done."""
    try:
        async with connections.transaction() as connection:
            await fetch(connection, "drop_monthly_partition", table=table, month=month)
    except LockedError:
        return False
    except ArchiveUnavailableError as error:
        if isinstance(error.__cause__, errors.DeadlockDetected):
            return False
        raise
    return True


async def note_retired(
    connections: ArchiveConnections, month: date, folder: str | None, rows: dict[str, int] | None
) -> None:
    """Write down that a month is being retired, and where it was exported to."""
    counts = None if rows is None else to_json(rows).decode()
    async with connections.transaction() as connection:
        await run(connection, "note_retired", month=month, folder=folder, rows=counts)


async def note_dropped(connections: ArchiveConnections, month: date) -> None:
    """Write down that a month is gone."""
    async with connections.transaction() as connection:
        await run(connection, "note_dropped", month=month)


async def month_notes(connections: ArchiveConnections) -> dict[date, MonthNote]:
    """What became of the months before."""
    async with connections.transaction() as connection:
        return {row[0]: MonthNote(*row) for row in await fetch(connection, "retired_months")}


async def partition_sizes(connections: ArchiveConnections) -> list[PartitionSize]:
    """Every partition of ours with its rows and bytes."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "partition_sizes")
    return [
        PartitionSize(table, name, _month_of(table, name), None if estimate < 0 else estimate, size)
        for table, name, estimate, size in rows
    ]


def _month_of(table: str, partition: str) -> date | None:
    if partition == f"{table}_default":
        return None
    year, month = partition.removeprefix(f"{table}_y").split("m")
    return date(int(year), int(month), 1)
