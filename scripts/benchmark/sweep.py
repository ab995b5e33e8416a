"""The sweep: what a tick costs among few and among many keys of other applications, and how long a round takes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from math import ceil
from typing import Any, cast

from benchmark.lab import Lab
from benchmark.plan import Plan, Steps
from benchmark.report import Result, Sheet, Spread
from benchmark.workload import SIZES, Workload
from session_bridge.service import Bridge, open_bridge
from session_bridge.settings import load_settings

_AT_ONCE = 10_000
_SLOW_MICROSECONDS = 200


@dataclass(slots=True)
class Ticks:
    """One round through all keys, tick by tick."""

    name: str
    keys: int
    seconds: list[float]
    cpu_seconds: list[float]
    sessions: int
    slowest_command_ms: float


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Rounds among live sessions alone, then with other applications' keys beside them."""
    live, others = plan.pick(2_000, 100_000), plan.pick(20_000, 1_000_000)
    keys = plan.pick(1_000, 10_000)
    steps.expect(4)
    steps.begin("sweep: filling")
    lab.empty()
    workload = Workload(SIZES["small"], live)
    for start in range(0, live, _AT_ONCE):
        lab.fill(workload.calls("swept")[start : start + _AT_ONCE])
    steps.done()
    settings = load_settings(
        redis_url=lab.redis_url, database_url=lab.database_url, sweep_keys=keys, idle_seconds=1e6, abandon_seconds=1e6
    )
    rounds = asyncio.run(_rounds(lab, steps, settings, others))
    return _result(rounds, settings.sweep_seconds, settings.ttl_seconds, keys)


async def _rounds(lab: Lab, steps: Steps, settings: Any, others: int) -> list[Ticks]:  # noqa: ANN401  # pydantic's own
    rounds = []
    async with open_bridge(settings) as bridge:
        for name in ("live sessions alone, first round", "live sessions alone", f"and {others:,} keys of others"):
            steps.begin(f"sweep: {name}")
            if name.endswith("others"):
                _add_others(lab, others)
            lab.settle()
            rounds.append(await _round(lab, bridge, name))
            steps.done()
    return rounds


def _add_others(lab: Lab, count: int) -> None:
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        lab.redis.mset({f"cache:{number}": f"value {number}" for number in numbers})


async def _round(lab: Lab, bridge: Bridge, name: str) -> Ticks:
    ticks = Ticks(name, cast("int", lab.redis.dbsize()), [], [], 0, 0.0)
    lab.redis.config_set("slowlog-log-slower-than", _SLOW_MICROSECONDS)
    lab.redis.slowlog_reset()
    while True:
        began, cpu = time.perf_counter(), time.process_time()
        report = await bridge.sweeper.sweep(limit=bridge.settings.sweep_limit, keys=bridge.settings.sweep_keys)
        ticks.seconds.append(time.perf_counter() - began)
        ticks.cpu_seconds.append(time.process_time() - cpu)
        ticks.sessions += report.sessions
        if report.round_complete:
            break
    slow = cast("list[dict[str, int]]", lab.redis.slowlog_get(128))
    ticks.slowest_command_ms = max((one["duration"] for one in slow), default=0) / 1000
    return ticks


def _result(rounds: list[Ticks], every: float, ttl: int, keys: int) -> Result:
    sheet = Sheet(
        f"The sweep, {keys:,} keys a tick",
        ("round", "keys", "sessions", "ticks", "ms a tick", "of it our CPU", "longest command", "a round takes"),
        note=f"a tick every {every:.0f} s; a round should end within a third of the TTL, {ttl / 3:,.0f} s",
    )
    figures: dict[str, Any] = {}
    for ticks in rounds:
        wall = Spread.of([seconds * 1000 for seconds in ticks.seconds])
        cpu = Spread.of([seconds * 1000 for seconds in ticks.cpu_seconds])
        takes = len(ticks.seconds) * every
        needed = ceil(ticks.keys / (ttl / 3 / every))
        figures[ticks.name] = {
            "keys": ticks.keys,
            "sessions": ticks.sessions,
            "ticks": len(ticks.seconds),
            "tick_ms": wall.figures(),
            "tick_cpu_ms": cpu.figures(),
            "slowest_command_ms": ticks.slowest_command_ms,
            "round_seconds": takes,
            "sweep_keys_for_a_round_in_time": needed,
        }
        verdict = f"{takes:,.0f} s" if takes <= ttl / 3 else f"{takes:,.0f} s: needs {needed:,} keys a tick"
        counts = f"{ticks.keys:,}", f"{ticks.sessions:,}", f"{len(ticks.seconds):,}"
        times = f"{wall:.0f}", f"{cpu.median:.0f}", f"{ticks.slowest_command_ms:.1f} ms"
        sheet.lines.append((ticks.name, *counts, *times, verdict))
    return Result({}, figures, [sheet])
