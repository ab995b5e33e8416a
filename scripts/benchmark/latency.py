"""Latency: from the request to the row that others can see, beside the least that a program can do.

All are seen in one way: a connection of its own asks for the call's row, again and again with a fifth of a millisecond
between; under load with five, for on two cores the asking would be most of the load: what is seen then is late by half
of that on average. The hand-written minimum is a process beside ours as the worker is, and is told by a line on a pipe.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import psycopg
from redis.asyncio import Redis

from benchmark.bridge import BridgeWorkers
from benchmark.lab import Lab
from benchmark.plan import Plan, Steps
from benchmark.processes import Child
from benchmark.report import Result, Sheet, quantile
from benchmark.team import Team
from benchmark.workload import SIZES, LiveCall, Workload
from session_bridge.recorder import request_drain

_PAUSE_SECONDS, _PAUSE_UNDER_LOAD_SECONDS = 0.0002, 0.005
_WARM_UP = 10
_PATIENCE_SECONDS = 60.0
_BRIDGE, _LOADED = "bridge, one at a time", "bridge, at half of its peak"
_MINIMUM, _SENT = "minimum", "bytes ready-made"

Latencies = dict[str, list[float]]
"""Seconds, by what was measured."""


class Watcher:
    """Asks the archive for calls until they are there."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def arrived(self, call_sids: Sequence[str]) -> list[str]:
        """Those of the calls that are committed."""
        statement = "SELECT call_sid FROM call_sids WHERE call_sid = ANY(%s) AND state = 'archived'"
        return [row[0] for row in self._connection.execute(statement, [list(call_sids)], prepare=True).fetchall()]

    def wait(self, call_sid: str) -> float:
        """The moment at which a call is seen, by `time.perf_counter`."""
        deadline = time.perf_counter() + _PATIENCE_SECONDS
        while not self.arrived([call_sid]):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{call_sid} was not archived within {_PATIENCE_SECONDS:.0f} s")
            time.sleep(_PAUSE_SECONDS)
        return time.perf_counter()


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Latencies one by one, in turns with the minimum, and at half of the peak.

    All of it several times: a machine that is not ours alone may be half as fast a minute after its peak was measured.
    """
    turns = plan.pick(1, 3)
    count, seconds = plan.pick(25, 300) // turns, plan.pick(1, 15) / turns
    workload = Workload(SIZES["regular"], plan.pick(200, 500))
    steps.expect(3 * turns)
    rates: list[float] = []
    latencies: Latencies = {}
    for _ in range(turns):
        steps.begin("latency: the peak")
        rates.append(_peak(lab, plan, workload))
        steps.done()
        lab.empty()
        with Team(lab, 1, plan.settings) as team:
            team.warm_up(workload.calls("warm", 100))
            steps.begin("latency: one at a time")
            found = _one_at_a_time(lab, workload, count)
            steps.done()
            steps.begin("latency: at half of the peak")
            calls = workload.calls("loaded", max(_WARM_UP, int(rates[-1] / 2 * seconds)))
            lab.fill(calls)
            lab.settle()
            found[_LOADED] = asyncio.run(_under_load(lab, calls, rates[-1] / 2))
            steps.done()
        for name, seen in found.items():
            latencies.setdefault(name, []).extend(seen)
    return _result(latencies, median(rates))


def _peak(lab: Lab, plan: Plan, workload: Workload) -> float:
    """Calls a second at which one worker process writes a backlog."""
    lab.empty()
    calls = workload.calls("peak", plan.pick(150, 1000))
    return BridgeWorkers("peak", workload, plan.settings).run(lab, calls).rate


def _one_at_a_time(lab: Lab, workload: Workload, count: int) -> Latencies:
    """Each of the ways in turn, `count` times, the first few left out."""
    latencies: Latencies = {_MINIMUM: [], _SENT: [], _BRIDGE: []}
    environment = {"REDIS_URL": lab.redis_url, "DATABASE_URL": lab.database_url}
    calls = {name: workload.calls(f"single{place}", count + _WARM_UP) for place, name in enumerate(latencies)}
    for filled in calls.values():
        lab.fill(filled)
    with (
        Child([sys.executable, "-m", "benchmark.minimum"], environment, piped=True) as child,
        lab.connect() as connection,
        asyncio.Runner() as runner,
    ):
        redis: Redis = Redis.from_url(lab.redis_url)
        watcher = Watcher(connection)
        for call in calls[_SENT]:
            child.tell(f"prepare {call.call_sid}")
            child.hear()
        lab.settle()
        ways: dict[str, Callable[[str], None]] = {
            _MINIMUM: lambda sid: child.tell(f"archive {sid}"),
            _SENT: lambda sid: child.tell(f"send {sid}"),
            _BRIDGE: lambda sid: runner.run(request_drain(redis, sid)),
        }
        for place in range(count + _WARM_UP):
            for name, way in ways.items():
                sid = calls[name][place].call_sid
                began = time.perf_counter()
                way(sid)
                latency = watcher.wait(sid) - began
                if name != _BRIDGE:
                    child.hear()
                else:
                    lab.wait_drained()
                if place >= _WARM_UP:
                    latencies[name].append(latency)
        runner.run(redis.aclose())
    return latencies


async def _under_load(lab: Lab, calls: Sequence[LiveCall], rate: float) -> list[float]:
    """Requests come at random, `rate` a second on average, whether or not earlier ones are archived."""
    draw = random.Random(1)  # noqa: S311  # the same arrivals every time
    waiting: dict[str, float] = {}
    latencies: list[float] = []
    everything_asked = threading.Event()

    def watch() -> None:
        with lab.connect() as connection:
            watcher = Watcher(connection)
            deadline = time.perf_counter() + len(calls) / rate * 5 + _PATIENCE_SECONDS
            while waiting or not everything_asked.is_set():
                if time.perf_counter() > deadline:
                    raise TimeoutError(f"{len(waiting):,} calls were not archived in time")
                arrived = watcher.arrived(list(waiting)) if waiting else []
                seen = time.perf_counter()
                latencies.extend(seen - waiting.pop(sid) for sid in arrived)
                time.sleep(_PAUSE_UNDER_LOAD_SECONDS)

    redis: Redis = Redis.from_url(lab.redis_url)
    async with redis:
        watching = asyncio.create_task(asyncio.to_thread(watch))
        try:
            due = time.perf_counter()
            for call in calls:
                due += draw.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                waiting[call.call_sid] = time.perf_counter()
                await request_drain(redis, call.call_sid)
        finally:
            everything_asked.set()
        await watching
    return latencies


def _result(latencies: Latencies, rate: float) -> Result:
    middle = {name: median(found) for name, found in latencies.items()}
    late = {name: quantile(found, 0.99) for name, found in latencies.items()}
    sheet = Sheet(
        "Latency, from the request to the committed row",
        ("", "of the minimum", "p99 of its p99", "median ms", "p99 ms", "calls"),
        note=f"half of the peak is {rate / 2:,.0f} calls a second, its turns' median; ratios are to the minimum too",
    )
    for name, found in latencies.items():
        ratios = f"{middle[name] / middle[_MINIMUM]:.2f}", f"{late[name] / late[_MINIMUM]:.2f}"
        sheet.lines.append((name, *ratios, f"{middle[name] * 1000:.2f}", f"{late[name] * 1000:.2f}", f"{len(found):,}"))
    figures: dict[str, Any] = {
        name: {"median_ms": middle[name] * 1000, "p99_ms": late[name] * 1000, "calls": len(found)}
        for name, found in latencies.items()
    }
    headline = {
        "latency_ratio": middle[_BRIDGE] / middle[_MINIMUM],
        "latency_ratio_p99": late[_BRIDGE] / late[_MINIMUM],
        "latency_ratio_loaded": middle[_LOADED] / middle[_MINIMUM],
        "latency_ratio_loaded_p99": late[_LOADED] / late[_MINIMUM],
    }
    return Result(headline, {"peak_calls_per_second": rate, **figures}, [sheet])
