"""The command line: `python -m benchmark`, which is `scripts/bench`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmark import growth, latency, lookups, memory, profile, recorder, sweep, throughput
from benchmark.lab import Lab, open_lab
from benchmark.machine import describe
from benchmark.plan import Plan, Steps, open_steps
from benchmark.report import Result, show, write
from benchmark.team import WorkerSettings
from benchmark.workload import SIZES
from session_bridge import log

Measure = Callable[[Lab, Plan, Steps], Result]
_SECTIONS: dict[str, Measure] = {
    "throughput": throughput.measure,
    "latency": latency.measure,
    "recorder": recorder.measure,
    "profile": profile.measure,
    "sweep": sweep.measure,
    "memory": memory.measure,
    "growth": growth.measure,
    "lookups": lookups.measure,
}
_CALLS, _CALLS_QUICK = 3000, 150
_ROUNDS, _ROUNDS_QUICK = 5, 1
_MESSAGE_ROWS, _MESSAGE_ROWS_QUICK = 1_000_000, 20_000
_WIDTH = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("what", type=click.Choice(["all", *_SECTIONS]), default="all")
@click.option("--quick", is_flag=True, help="Little of everything, in less than a minute.")
@click.option(
    "--rounds", type=click.IntRange(1), help=f"Rounds of every comparison [{_ROUNDS}; quick: {_ROUNDS_QUICK}]."
)
@click.option("--calls", type=click.IntRange(20), help=f"Calls of a round [{_CALLS}; quick: {_CALLS_QUICK}].")
@click.option(
    "--message-rows",
    type=click.IntRange(1),
    help=f"Rows that growth fills the archive with [{_MESSAGE_ROWS:,}; quick: {_MESSAGE_ROWS_QUICK:,}].",
)
@click.option("--size", type=click.Choice([*SIZES, "all"]), help="Size of the calls [all; quick: regular].")
@click.option("--batch-size", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 64), default=2, show_default=True, help="Of one worker.")
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), default="bench-results.json", show_default=True
)
@click.option("--servers-in", type=click.Path(file_okay=False, exists=True), help="Folder for the servers' data.")
def main(
    what: str,
    *,
    quick: bool,
    rounds: int | None,
    calls: int | None,
    message_rows: int | None,
    size: str | None,
    batch_size: int,
    concurrency: int,
    file: Path,
    servers_in: str | None,
) -> None:
    """Measure the bridge: WHAT is one measurement, or all of them, one after the other."""
    sizes = (size,) if size in SIZES else ("regular",) if quick and size is None else ("regular", "small", "large")
    plan = Plan(
        quick,
        rounds or (_ROUNDS_QUICK if quick else _ROUNDS),
        calls or (_CALLS_QUICK if quick else _CALLS),
        message_rows or (_MESSAGE_ROWS_QUICK if quick else _MESSAGE_ROWS),
        tuple(filter(None, sizes)),
        WorkerSettings(batch_size, concurrency),
    )
    log.configure("console", "error")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    results: dict[str, Result] = {}
    started = datetime.now(UTC)
    with open_lab(servers_in) as lab, open_steps(console) as steps:
        about = _about(lab, plan, started)
        for name in _SECTIONS if what == "all" else [what]:
            results[name] = _SECTIONS[name](lab, plan, steps)
            show(console, results[name])
            # What is measured is kept, whatever becomes of the rest.
            write(file, about, results)
    console.print(f"All figures: {file}")


def _about(lab: Lab, plan: Plan, started: datetime) -> dict[str, Any]:
    return {
        "started_at": started.isoformat(timespec="seconds"),
        "command": f"scripts/bench {' '.join(sys.argv[1:])}".strip(),
        "machine": describe(lab) | {"load_at_start": os.getloadavg()[0]},
        "settings": {
            "rounds": plan.rounds,
            "calls": plan.calls,
            "batch_size": plan.settings.batch_size,
            "concurrency": plan.settings.concurrency,
            **lab.settings(),
        },
    }


if __name__ == "__main__":
    # However it is ended, its servers and workers end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(prog_name="scripts/bench")
