"""`session-bridge retention`: months that are too old go, and may come back from their files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from session_bridge import log
from session_bridge.cli.output import EXIT_ERROR, console, errors, print_json, print_table
from session_bridge.contract.ids import now
from session_bridge.settings import load_settings
from session_bridge.upkeep.retention import Progress as Show
from session_bridge.upkeep.retention import RetiredMonth, plan, restore, retire

_Result = TypeVar("_Result")


@click.command("retention")
@click.option("--months", type=click.IntRange(1), help="Keep so many whole months before the present one.")
@click.option("--dry-run", is_flag=True, help="Say which months would go, and touch nothing.")
@click.option(
    "--export",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write each month to Parquet files below this folder before it is dropped.",
)
@click.option(
    "--restore",
    "restored",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take the month in this folder back, and do nothing else.",
)
@click.option("--keep-days", type=click.IntRange(1), default=30, show_default=True, help="How long it stays then.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def retention_command(
    *,
    months: int | None,
    dry_run: bool,
    folder: Path | None,
    restored: Path | None,
    keep_days: int,
    as_json: bool,
) -> None:
    """Retire the months that are too old: whole calls go, by dropping partitions, while drains go on.

    Their SIDs leave tombstones, so that what comes late for them is let go. With --export, or the setting
    SESSION_BRIDGE_RETENTION_FOLDER, each month is first written to compressed Parquet files. Exit status 1 if a
    table was in use for too long and is left for the next run.
    """
    settings = load_settings()
    log.configure(settings.log_format, "error", key=settings.namespace)
    if restored is not None:
        keep_until = (now() + timedelta(days=keep_days)).date()
        came = asyncio.run(_with_progress(lambda show: restore(settings, restored, keep_until, show)))
        if as_json:
            print_json({"rows": came, "keep_until": keep_until.isoformat()})
        else:
            print_table("restored", ("table", "rows"), sorted(came.items()))
            console.print(f"retention leaves it alone until {keep_until}")
        return
    keep = months or settings.retention_months
    if dry_run:
        found = asyncio.run(plan(settings, keep))
    else:
        where = folder or (Path(settings.retention_folder) if settings.retention_folder else None)
        found = asyncio.run(_with_progress(lambda show: retire(settings, keep, where, show)))
    if as_json:
        print_json([asdict(one) | {"month": f"{one.month:%Y-%m}"} for one in found])
    else:
        _print(found, keep, dry_run=dry_run)
    if any(one.busy for one in found):
        raise SystemExit(EXIT_ERROR)


async def _with_progress(work: Callable[[Show], Awaitable[_Result]]) -> _Result:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("looking")

        def show(month: date, what: str, done: int) -> None:
            progress.update(task, description=f"{month:%Y-%m}: {what}{f' {done:,}' if done else ''}")

        return await work(show)


def _print(found: list[RetiredMonth], keep: int, *, dry_run: bool) -> None:
    if not found:
        console.print(f"nothing to do: no month is older than the {keep} that are kept")
        return
    rows = [
        (f"{one.month:%Y-%m}", one.calls, sum(one.rows.values()) or None, one.exported_to, ", ".join(one.busy))
        for one in found
    ]
    print_table("would be retired" if dry_run else "retired", ("month", "calls", "rows", "exported to", "in use"), rows)
    if any(one.busy for one in found):
        console.print("tables in use are left for the next run: end the long transactions that read them")
