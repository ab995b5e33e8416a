"""`session-bridge sweep`: one sweep, for a system cron or a Kubernetes CronJob."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from session_bridge import log
from session_bridge.cli.output import console, errors, print_facts, print_json, print_table
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings
from session_bridge.sweep.sweeper import SweepReport


@click.command("sweep")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and touch nothing.")
@click.option("--limit", type=click.IntRange(1), help="Ask for at most this many drains and checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def sweep_command(*, dry_run: bool, limit: int | None, as_json: bool) -> None:
    """Find sessions that nobody asked to finalize, and ask for them.

    Goes once through all keys of the Redis. The drains themselves are a worker's: this only asks for them.
    """
    settings = load_settings()
    log.configure(settings.log_format, "warning", key=settings.namespace)
    report = asyncio.run(_sweep(settings, dry_run=dry_run, limit=limit or settings.sweep_limit))
    if as_json:
        decisions = [{"call_sid": sid, "action": d.action, "reason": d.reason} for sid, d in report.decisions]
        print_json(asdict(report) | {"found": report.found, "asked": report.asked, "decisions": decisions})
        return
    print_facts(
        {
            "sessions": report.sessions,
            "held": report.held,
            "rescued": report.rescued,
            "checkpoints": report.checkpoints,
            "missing": report.missing,
            "asked about": sum(report.asked.values()),
            "left": report.left,
        }
    )
    if report.asked:
        print_table("what providers answered", ("answer", "calls"), sorted(report.asked.items()))
    if report.found:
        print_table("why", ("reason", "sessions"), sorted(report.found.items()))
    if dry_run:
        print_table(
            "would be done",
            ("call SID", "action", "reason"),
            [(sid, d.action, d.reason) for sid, d in report.decisions],
        )
    elif report.left:
        console.print(f"{report.left} sessions were left for the next sweep; raise --limit to take more at once")


async def _sweep(settings: Settings, *, dry_run: bool, limit: int) -> SweepReport:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("looking")

        def show(report: SweepReport) -> None:
            progress.update(task, description=f"{report.sessions:,} sessions met, {report.rescued:,} rescued")

        async with open_bridge(settings) as bridge:
            bridge.directory.require_extra()
            return await bridge.sweeper.sweep(limit=limit, dry_run=dry_run, progress=show)
