"""Memory of a worker: with a growing backlog, with more batches at once, and with one huge call among small ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from time import perf_counter

from benchmark.lab import KEYS, Lab, UnfairError
from benchmark.plan import Plan, Steps
from benchmark.processes import memory_bytes
from benchmark.report import Result, Sheet
from benchmark.team import Team, WorkerSettings
from benchmark.workload import SIZES, LiveCall, Workload

_MEGABYTE = 2**20
_FILL_AT_ONCE = 10_000
_SMALL_BESIDE = 500


@dataclass(frozen=True, slots=True)
class Drain:
    """What a worker held at most while it drained, and before."""

    name: str
    before: int | None
    most: int | None
    seconds: float


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Every backlog by a worker of its own."""
    backlogs = (300, 1_000) if plan.quick else (1_000, 10_000, 100_000)
    events = plan.pick(5_000, 100_000)
    many = replace(plan.settings, concurrency=plan.settings.concurrency * 4)
    steps.expect(len(backlogs) + 2)
    drains = []
    for backlog in backlogs:
        name = f"{backlog:,} small calls wait"
        steps.begin(f"memory: {name}")
        drains.append(_drain(lab, plan.settings, name, backlog))
        steps.done()
    name = f"{backlogs[1]:,} small calls wait, {many.concurrency} batches at once"
    steps.begin(f"memory: {name}")
    drains.append(_drain(lab, many, name, backlogs[1]))
    steps.done()
    steps.begin(f"memory: a call of {events:,} events")
    huge, beside = _drain_huge(lab, plan.settings, events)
    drains.append(huge)
    steps.done()
    return _result(drains, beside)


def _drain(lab: Lab, settings: WorkerSettings, name: str, backlog: int) -> Drain:
    lab.empty()
    calls = Workload(SIZES["small"], backlog).calls("waiting")
    with Team(lab, 1, settings) as team:
        before = memory_bytes(team.pids[0])
        for start in range(0, backlog, _FILL_AT_ONCE):
            lab.fill(calls[start : start + _FILL_AT_ONCE])
        lab.settle()
        began = perf_counter()
        lab.ask(calls)
        lab.wait_drained()
        return Drain(name, before, memory_bytes(team.pids[0], "VmHWM"), perf_counter() - began)


def _drain_huge(lab: Lab, settings: WorkerSettings, events: int) -> tuple[Drain, float]:
    """One call of so many events and small ones due after it; also the seconds until the small ones were archived."""
    lab.empty()
    small = Workload(SIZES["small"], _SMALL_BESIDE).calls("beside")
    huge = _huge_call(events)
    with Team(lab, 1, settings) as team:
        before = memory_bytes(team.pids[0])
        lab.fill(small)
        for start in range(0, events, _FILL_AT_ONCE):
            part = dict(list(huge.fields.items())[start : start + _FILL_AT_ONCE])
            lab.fill([LiveCall(huge.call_sid, part)])
        lab.settle()
        began = perf_counter()
        lab.ask([huge])
        lab.ask(small)
        lab.wait(lambda: _left(lab, huge) == 0, "the small calls")
        beside = perf_counter() - began
        lab.wait_drained()
        most, seconds = memory_bytes(team.pids[0], "VmHWM"), perf_counter() - began
        archived = lab.counts()["call_sids"]
        if archived != _SMALL_BESIDE + 1:
            raise UnfairError(f"the archive knows {archived:,} calls instead of {_SMALL_BESIDE + 1:,}")
        name = f"one call of {events:,} events ({huge.size_bytes / _MEGABYTE:.0f} MB) and {_SMALL_BESIDE} small ones"
        return Drain(name, before, most, seconds), beside


def _left(lab: Lab, huge: LiveCall) -> int:
    """Requests for other calls than this one."""
    waiting = lab.redis.zcard(KEYS.ready)
    assert isinstance(waiting, int)
    return waiting - (lab.redis.zscore(KEYS.ready, huge.call_sid) is not None)


def _huge_call(events: int) -> LiveCall:
    fields = {b"provider": b"twilio", b"tenant_id": b"tenant-0", b"status": b"completed"}
    for number in range(events):
        message = {"role": ("user", "assistant")[number % 2], "content": f"This is what was said as number {number}."}
        fields[f"message:{number:08}".encode()] = json.dumps(message | {"turn_number": number}).encode()
    return LiveCall("CA-huge", fields)


def _result(drains: list[Drain], beside: float) -> Result:
    sheet = Sheet(
        "Memory of one worker",
        ("", "before, MB", "at most, MB", "seconds"),
        note=f"beside the huge call the small ones were archived after {beside:.1f} s",
    )
    figures: dict[str, object] = {"seconds_of_the_small_calls_beside_the_huge_one": beside}
    for drain in drains:
        figures[drain.name] = {"before_bytes": drain.before, "most_bytes": drain.most, "seconds": drain.seconds}
        sheet.lines.append((drain.name, _megabytes(drain.before), _megabytes(drain.most), f"{drain.seconds:.1f}"))
    return Result({}, figures, [sheet])


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / _MEGABYTE:.0f}"
