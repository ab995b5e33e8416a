"""`session-bridge stats`: the archive in numbers a person looks at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import get_args

import click
from rich.table import Table
from rich.text import Text

from session_bridge.archive.statistics import By, Numbers, Statistics, statistics
from session_bridge.cli.output import console, print_json
from session_bridge.cli.since import SINCE
from session_bridge.contract import ids
from session_bridge.service import open_readers
from session_bridge.settings import Settings, load_settings

_BARS = " ▏▎▍▌▋▊▉█"
_STEPS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 16
_LONGEST_LINE = 96
_HOUR, _MINUTE = 3600, 60


@click.command("stats")
@click.option("--since", type=SINCE, default="7d", show_default=True, help="From then on: 7d, 12h, or a date.")
@click.option("--until", type=SINCE, help="Up to then; now if left out.")
@click.option("--by", type=click.Choice(get_args(By)), default="day", show_default=True, help="What a row is.")
@click.option("--tenant", help="Only calls of this tenant.")
@click.option("--agent", help="Only calls with this agent, by id or name.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def stats_command(
    *, since: datetime, until: datetime | None, by: By, tenant: str | None, agent: str | None, as_json: bool
) -> None:
    """Show how many calls there were, how they ended, how quick the agent was, and what they cost.

    Days and hours are in UTC. The latency is from the user's last word to the agent's first: the mean of the calls, and
    what 95 in 100 calls stayed below.
    """
    until = until or ids.now()
    if since >= until:
        raise click.UsageError("--since must be before --until")
    found = asyncio.run(_read(load_settings(), since, until, by, tenant=tenant, agent=agent))
    if as_json:
        parts = [{by: name} | asdict(numbers) for name, numbers in found.parts.items()]
        print_json({"since": since, "until": until, "by": by, "total": asdict(found.total), "parts": parts})
    else:
        _print(found)


async def _read(
    settings: Settings, since: datetime, until: datetime, by: By, *, tenant: str | None, agent: str | None
) -> Statistics:
    async with open_readers(settings) as connections:
        return await statistics(connections, since, until, by, tenant=tenant, agent=agent)


def _print(found: Statistics) -> None:
    if not found.total.calls:
        console.print(f"no calls between {found.since:%Y-%m-%d %H:%M} and {found.until:%Y-%m-%d %H:%M} UTC")
        return
    table = Table(box=None, pad_edge=False, show_footer=True)
    total = _cells(found.total)
    table.add_column(found.by, "total", header_style="dim", footer_style="bold", no_wrap=True)
    table.add_column("calls", total[0], justify="right", header_style="dim", footer_style="bold")
    table.add_column("", header_style="dim", no_wrap=True)
    for name, footer in zip(("completed", "failed", "talk", "mean", "latency", "p95", "cost"), total[1:], strict=True):
        table.add_column(name, footer, justify="right", header_style="dim", footer_style="bold", no_wrap=True)
    most = max(numbers.calls for numbers in found.parts.values())
    for name, numbers in found.parts.items():
        calls, *rest = _cells(numbers)
        table.add_row(Text(name or "(none)"), calls, Text(bar(numbers.calls, most), "cyan"), *rest)
    console.print(table)
    if found.by != "agent" and len(found.parts) > 1:
        _print_line("calls", [float(numbers.calls) for numbers in found.parts.values()])
        _print_line("latency", [numbers.avg_latency_ms for numbers in found.parts.values()])


def _print_line(name: str, values: Sequence[float | None]) -> None:
    shown = values[-_LONGEST_LINE:]
    known = [value for value in shown if value is not None]
    if known:
        range_ = f"{min(known):,.0f} to {max(known):,.0f}"
        console.print(Text.assemble((f"{name:<8}", "dim"), (sparkline(shown), "cyan"), (f"  {range_}", "dim")))


def _cells(numbers: Numbers) -> tuple[str, ...]:
    return (
        f"{numbers.calls:,}",
        f"{numbers.completed / numbers.calls:.0%}" if numbers.calls else "",
        f"{numbers.failed:,}" if numbers.failed else "",
        _time(numbers.talk_seconds),
        _time(numbers.avg_duration_seconds),
        _milliseconds(numbers.avg_latency_ms),
        _milliseconds(numbers.p95_latency_ms),
        "" if numbers.cost_cents is None else f"{numbers.cost_cents / 100:,.2f}",
    )


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} ms"


def _time(seconds: float | None) -> str:
    if not seconds:
        return ""
    whole = round(seconds)
    if whole >= _HOUR:
        return f"{whole // _HOUR:,}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _MINUTE}m{whole % _MINUTE:02}s" if whole >= _MINUTE else f"{whole}s"


def bar(value: float, most: float, width: int = _BAR_WIDTH) -> str:
    """A bar of eighths of a character; the longest is `width`, and what is more than nothing is seen."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * width * 8))
    return _BARS[8] * (eighths // 8) + _BARS[eighths % 8].strip()


def sparkline(values: Sequence[float | None]) -> str:
    """A line of little columns from the least value to the greatest; a gap where there is none."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_STEPS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value is None else _STEPS[round((value - low) * scale)] for value in values)
