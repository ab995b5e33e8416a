"""`scripts/chaos`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from chaos_campaign.campaign import Campaign, run_campaign
from chaos_campaign.hostile import HostileReport, run_hostile
from chaos_campaign.report import Report
from chaos_campaign.schedule import FULL, SHORT
from session_bridge import log

_RECORDED = Path(__file__).resolve().parents[3] / "shared" / "calls"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, default=1, show_default=True, help="The same one draws the same calls and faults.")
@click.option("--short/--full", default=True, help="About a minute [the default], or about five.")
@click.option("--calls", type=click.IntRange(1), help=f"Calls [{SHORT.calls}; full: {FULL.calls}].")
@click.option("--workers", type=click.IntRange(1), help=f"Worker processes [{SHORT.workers}].")
@click.option("--kills", type=click.IntRange(0), help=f"Workers SIGKILLed [{SHORT.kills}; full: {FULL.kills}].")
@click.option(
    "--restarts", type=click.IntRange(0), help=f"Restarts of each server [{SHORT.restarts}; full: {FULL.restarts}]."
)
@click.option("--cuts", type=click.IntRange(0), help=f"Failures of the network [{SHORT.cuts}; full: {FULL.cuts}].")
@click.option(
    "--recorder-kills",
    type=click.IntRange(0),
    help=f"Recording processes SIGKILLed [{SHORT.recorder_kills}; full: {FULL.recorder_kills}].",
)
@click.option("--recorders", type=click.IntRange(1), help=f"Recording processes [{SHORT.recorders}].")
@click.option(
    "--hostile", type=click.IntRange(1), help="Instead: so many batches of hostile sessions, and some giants."
)
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), default="chaos-report.json", show_default=True
)
def main(*, seed: int, short: bool, hostile: int | None, file: Path, **given: int | None) -> None:
    """Play calls while workers are killed, servers crash and the network fails; then count.

    The exit status is 0 only if every event that Redis acknowledged is in the archive once, nothing waits, nothing is
    dead and the books balance.
    """
    sizes = replace(SHORT if short else FULL, **{name: value for name, value in given.items() if value is not None})
    log.configure("console", "error")
    console = Console()
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting servers", total=1)

        def progress(what: str, done: float) -> None:
            bar.update(task, description=what, completed=done)

        report: Report | HostileReport
        if hostile is not None:
            report = asyncio.run(run_hostile(hostile, seed, progress))
        else:
            campaign = Campaign(seed, sizes, _RECORDED if _RECORDED.is_dir() else None, progress)
            report = asyncio.run(run_campaign(campaign))
    report.show(console)
    file.write_text(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"All figures: {file}")
    sys.exit(not report.good)


if __name__ == "__main__":
    # However it is ended, its servers and workers end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(prog_name="scripts/chaos")
