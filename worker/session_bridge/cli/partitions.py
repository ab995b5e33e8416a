"""`session-bridge partitions`: the months of every table."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import asdict
from datetime import date

import click

from session_bridge.archive.partitions import MONTHS_AHEAD, ensure_partitions, partition_status
from session_bridge.archive.retention import PartitionSize, partition_sizes
from session_bridge.cli.output import EXIT_ERROR, console, print_json, print_table
from session_bridge.contract.ids import now
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1024


@click.command("partitions")
@click.option("--make", is_flag=True, help="Make what is missing now, as the worker does twice a day.")
@click.option("--all", "every", is_flag=True, help="A line for each table and month.")
@click.option("--json", "as_json", is_flag=True, help="Print every partition as JSON.")
def partitions_command(*, make: bool, every: bool, as_json: bool) -> None:
    """List the archive's months: rows, size, and how many are made ahead.

    Exit status 1 if a default partition holds rows, or the coming month is not made. Rows are PostgreSQL's estimate.
    """
    made, sizes, stray = asyncio.run(_read(make=make))
    ahead = _ahead(sizes)
    if as_json:
        partitions = [asdict(one) | {"month": f"{one.month:%Y-%m}" if one.month else None} for one in sizes]
        print_json({"made": made, "ahead": ahead, "in_default": stray, "partitions": partitions})
    else:
        _print(sizes, every=every)
        if made:
            console.print(f"{len(made)} partitions made")
        console.print(f"made ahead: {ahead} months ({MONTHS_AHEAD} are wanted)")
        for table, rows in stray.items():
            console.print(f"{table}_default holds {rows:,} rows of months without a partition: run with --make")
    if stray or not ahead:
        raise SystemExit(EXIT_ERROR)


async def _read(*, make: bool) -> tuple[list[str], list[PartitionSize], dict[str, int]]:
    settings = load_settings()
    async with open_bridge(settings) as bridge:
        made: list[str] = []
        if make:
            async with bridge.connections.plain() as connection:
                made = await ensure_partitions(connection, settings.db_schema)
        sizes = await partition_sizes(bridge.connections)
        async with bridge.connections.plain() as connection:
            statuses = await partition_status(connection, settings.db_schema)
    return made, sizes, {status.table: status.default_rows for status in statuses if status.default_rows}


def _ahead(sizes: list[PartitionSize]) -> int:
    """How many months after this one every table has."""
    months: defaultdict[str, set[date]] = defaultdict(set)
    for one in sizes:
        if one.month is not None:
            months[one.table].add(one.month)
    today = now().date()
    ahead = 0
    while months:
        number = today.year * 12 + today.month + ahead
        following = date(number // 12, number % 12 + 1, 1)
        if any(following not in there for there in months.values()):
            break
        ahead += 1
    return ahead


def _print(sizes: list[PartitionSize], *, every: bool) -> None:
    if every:
        rows = [(one.partition, _month(one.month), one.rows, _size(one.size_bytes)) for one in sizes]
        print_table("partitions", ("partition", "month", "rows", "size"), rows)
        return
    by_month: defaultdict[date | None, list[PartitionSize]] = defaultdict(list)
    for one in sizes:
        by_month[one.month].append(one)
    ordered = sorted(by_month.items(), key=lambda item: item[0] or date.max)
    rows_of_months = [
        (
            _month(month),
            len(found),
            sum(one.rows or 0 for one in found if one.table == "call_sessions"),
            sum(one.rows or 0 for one in found),
            _size(sum(one.size_bytes for one in found)),
        )
        for month, found in ordered
    ]
    print_table("months", ("month", "tables", "calls", "rows", "size"), rows_of_months)


def _month(month: date | None) -> str:
    return "default" if month is None else f"{month:%Y-%m}"


def _size(size: float) -> str:
    unit = 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{size:.0f} {_UNITS[unit]}"
