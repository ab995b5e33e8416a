"""Retention: months that are too old are retired, written to files if that is wanted, and dropped.

First every call of the month is marked in the book, page by page: from then on what comes late for it is let go, and
nothing is written to the month any more. So what is exported next is all there will ever be. Then the partitions go,
each in a transaction of its own that asks for its table with a short patience, and at last the book forgets the call
SIDs. A run that ends anywhere in between is finished by the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import structlog

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.retention import (
    alone,
    drop_partition,
    due_months,
    forget_calls,
    month_notes,
    monthly_tables,
    note_dropped,
    note_retired,
    retire_calls,
)
from session_bridge.errors import ArchiveUnavailableError
from session_bridge.service import upkeep_of
from session_bridge.settings import Settings

log = structlog.get_logger(__name__)

_TRIES = 100
_PAUSE_SECONDS = 0.3

Progress = Callable[[date, str, int], None]
"""Told the month, what is being done, and how much of it is done."""


@dataclass(slots=True)
class RetiredMonth:
    """What became of one month. `busy` are tables that were in use for too long: their turn is the next run's."""

    month: date
    calls: int
    exported_to: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)


async def plan(settings: Settings, keep_months: int) -> list[RetiredMonth]:
    """The months that a run would retire, and their calls. Nothing is touched."""
    async with upkeep_of(settings) as connections:
        return [RetiredMonth(month, calls) for month, calls in await due_months(connections, keep_months)]


async def retire(
    settings: Settings,
    keep_months: int,
    folder: Path | None,
    progress: Progress = lambda _month, _what, _done: None,
) -> list[RetiredMonth]:
    """Retire every month before the last `keep_months`; with a folder, each is exported before it is dropped.

    Drains go on beside it. Raises ExportError if a month cannot be written, and drops nothing of it then;
    ArchiveUnavailableError if another run is at it.
    """
    if folder is not None:
        _require_parquet()
    async with upkeep_of(settings) as connections, alone(connections) as free:
        if not free:
            raise ArchiveUnavailableError("another retention is running on this archive: wait for its end")
        months = await due_months(connections, keep_months)
        return [await _retire(connections, month, folder, progress) for month, _ in months]


async def _retire(
    connections: ArchiveConnections, month: date, folder: Path | None, progress: Progress
) -> RetiredMonth:
    calls = await retire_calls(connections, month, lambda done: progress(month, "retiring", done))
    retired = RetiredMonth(month, calls)
    note = (await month_notes(connections)).get(month)
    if note is not None and note.is_exported:
        # An earlier run came so far and no further; the tables it dropped are only there.
        retired.exported_to, retired.rows = note.exported_to, note.row_counts or {}
    else:
        await _export(connections, retired, folder, progress)
        await note_retired(connections, month, retired.exported_to, retired.rows or None)
    for place, table in enumerate(await monthly_tables(connections)):
        progress(month, "dropping", place)
        if not await _drop(connections, table, month):
            retired.busy.append(table)
    if retired.busy:
        log.warning("retention.busy", month=f"{month:%Y-%m}", tables=len(retired.busy), advice="the next run goes on")
        return retired
    await forget_calls(connections, month, lambda done: progress(month, "forgetting", done))
    await note_dropped(connections, month)
    log.info("retention.done", month=f"{month:%Y-%m}", calls=retired.calls, exported=retired.exported_to is not None)
    return retired


async def _export(
    connections: ArchiveConnections, retired: RetiredMonth, folder: Path | None, progress: Progress
) -> None:
    if folder is None:
        return
    from session_bridge.archive.parquet import export_month  # noqa: PLC0415  # only an export needs pyarrow

    month = retired.month

    def show(table: str) -> None:
        progress(month, f"exporting {table}", 0)

    path, manifest = await export_month(connections, month, folder, show)
    retired.exported_to, retired.rows = str(path), manifest.rows


async def _drop(connections: ArchiveConnections, table: str, month: date) -> bool:
    for _ in range(_TRIES):
        if await drop_partition(connections, table, month):
            return True
        # The writers who waited behind the attempt go first.
        await asyncio.sleep(_PAUSE_SECONDS)
    return False


async def restore(
    settings: Settings, folder: Path, keep_until: date, progress: Progress = lambda _month, _what, _done: None
) -> dict[str, int]:
    """Take an exported month back, to be kept until that day; returns the rows that came, by table."""
    _require_parquet()
    from session_bridge.archive.restore import restore_month  # noqa: PLC0415

    async with upkeep_of(settings) as connections, alone(connections) as free:
        if not free:
            raise ArchiveUnavailableError("a retention is running on this archive: wait for its end")
        return await restore_month(connections, folder, keep_until, lambda table: progress(keep_until, table, 0))


def _require_parquet() -> None:
    """Raise MissingExtraError now, and not when a month is half retired."""
    import session_bridge.archive.parquet  # noqa: F401, PLC0415
