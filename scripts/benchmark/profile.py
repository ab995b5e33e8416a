"""Where the time of a batch goes, stage by stage: the real functions, timed from outside, one batch after the other."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar
from unittest import mock

from benchmark.contender import stopwatch
from benchmark.lab import Lab
from benchmark.plan import Plan, Steps
from benchmark.report import Result, Sheet
from benchmark.workload import SIZES, LiveCall, Workload
from session_bridge.archive import writer
from session_bridge.contract.models import MODELS
from session_bridge.drain import drainer, prepare
from session_bridge.jobs import look_for_garbage_seldom
from session_bridge.live.sessions import LiveSessions
from session_bridge.live.watch import Watch
from session_bridge.service import Bridge, open_bridge
from session_bridge.settings import load_settings

P = ParamSpec("P")
T = TypeVar("T")

OTHER = "everything else"
_VALIDATED = 200


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, and the function that is it; what happens in a function of a stage below it is that one's time."""

    name: str
    owner: Any
    function: str


STAGES = (
    Stage("claim", LiveSessions, "claim"),
    Stage("look up in the book", drainer, "look_up"),
    Stage("read from Redis", Watch, "read"),
    Stage("understand", drainer, "read"),
    Stage("read back what is archived", drainer, "read_back"),
    Stage("shape", drainer, "prepare"),
    Stage("  rows of a call", prepare, "shape"),
    Stage("format for PostgreSQL", drainer, "batch_of"),
    Stage("write: begin, commit", drainer, "write"),
    Stage("  lock in the book", writer, "advance"),
    Stage("  COPY", writer, "copy_all"),
    Stage("  insert and merge", writer, "_insert"),
    Stage("  chunk contents", writer, "_keep_contents"),
    Stage("release", LiveSessions, "release"),
)


@dataclass(slots=True)
class Spent:
    """Time of one stage, the stages within it left out."""

    wall: float = 0.0
    cpu: float = 0.0
    times: int = 0


@dataclass(slots=True)
class Stages:
    """Clocks around the functions. They stop while an inner one runs, so that all add up to the whole.

    Only right where one batch is drained after the other; what the servers do is wall time without processor time.
    """

    spent: dict[str, Spent] = field(default_factory=dict)
    _open: list[Spent] = field(default_factory=list)
    _last: tuple[float, float] = (0.0, 0.0)

    def of(self, name: str) -> Spent:
        """The clock of one stage."""
        return self.spent.setdefault(name, Spent())

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Everything in the block is this stage's, but for stages in it."""
        self._turn()
        clock = self.of(name)
        clock.times += 1
        self._open.append(clock)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        if self._open:
            self._open[-1].wall += wall - self._last[0]
            self._open[-1].cpu += cpu - self._last[1]
        self._last = (wall, cpu)

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        """`function`, timed."""

        @functools.wraps(function)
        def plain(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.within(name):
                return function(*args, **kwargs)

        return plain

    def timed_wait(self, name: str, function: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """The same for a coroutine."""

        @functools.wraps(function)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.within(name):
                return await function(*args, **kwargs)

        return waiting


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """The stages of one batch, in this process, with one transaction at a time."""
    count = plan.pick(150, 1000)
    workload = Workload(SIZES["regular"], count)
    steps.expect(2)
    result = Result()
    validation = _validation(workload.calls("validated", min(count, _VALIDATED)))
    result.figures["validation_alone_ms_per_call"] = validation
    for title, merged in (("new calls", False), ("calls checkpointed before", True)):
        steps.begin(f"profile: {title}")
        lab.empty()
        with _as_in_a_worker():
            stages = asyncio.run(_drain(lab, plan, workload.calls("profile"), merged=merged))
        result.figures[title.replace(" ", "_")] = {
            name.strip(): {
                "wall_ms_per_call": spent.wall / count * 1000,
                "cpu_ms_per_call": spent.cpu / count * 1000,
                "times": spent.times,
            }
            for name, spent in stages.items()
        }
        result.sheets.append(_sheet(title, stages, count, plan.settings.batch_size))
        steps.done()
    result.sheets[0].note += f". Of understanding, the validation of all events by itself is {validation:.3f} ms"
    return result


@contextmanager
def _as_in_a_worker() -> Iterator[None]:
    """Look for garbage as seldom as a worker does."""
    usual = gc.get_threshold()
    look_for_garbage_seldom()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def _validation(calls: list[LiveCall]) -> float:
    """Milliseconds a call that pydantic alone needs; clocks around each of its events would cost as much as they do."""
    events = [
        (MODELS[name.partition(b":")[0].decode()].validator, value)
        for call in calls
        for name, value in call.fields.items()
        if b":" in name
    ]
    with stopwatch() as watch:
        for validator, value in events:
            validator.validate_json(value)
    return watch.seconds / len(calls) * 1000


async def _drain(lab: Lab, plan: Plan, calls: list[LiveCall], *, merged: bool) -> dict[str, Spent]:
    settings = load_settings(
        redis_url=lab.redis_url, database_url=lab.database_url, batch_size=plan.settings.batch_size, concurrency=1
    )
    async with open_bridge(settings) as bridge:
        warm = [LiveCall(f"warm-{call.call_sid}", call.fields) for call in calls[:50]]
        lab.fill(warm)
        lab.ask(warm)
        await bridge.loop.drain_once()
        if merged:
            lab.fill(
                [LiveCall(call.call_sid, dict(list(call.fields.items())[: len(call.fields) // 2])) for call in calls]
            )
            lab.ask(calls, bridge.keys.checkpoints)
            await bridge.loop.drain_once()
        lab.fill(calls)
        lab.ask(calls)
        lab.settle()
        return await _timed(bridge)


async def _timed(bridge: Bridge) -> dict[str, Spent]:
    stages = Stages()
    with ExitStack() as stack:
        for stage in STAGES:
            function = getattr(stage.owner, stage.function)
            wrap = stages.timed_wait if asyncio.iscoroutinefunction(function) else stages.timed
            stack.enter_context(mock.patch.object(stage.owner, stage.function, wrap(stage.name, function)))
        with stages.within(OTHER):
            await bridge.loop.drain_once()
    named = [*(stage.name for stage in STAGES), OTHER]
    return {name: stages.of(name) for name in named if stages.of(name).times}


def _sheet(title: str, stages: dict[str, Spent], count: int, batch_size: int) -> Sheet:
    wall, cpu = sum(spent.wall for spent in stages.values()), sum(spent.cpu for spent in stages.values())
    sheet = Sheet(f"Where the time goes, {title}", ("stage", "share", "ms a call", "of it our CPU", "times"))
    for name, spent in stages.items():
        share, times = f"{spent.wall / wall:.1%}", f"{spent.times:,}"
        line = f"{spent.wall / count * 1000:.3f}", f"{spent.cpu / count * 1000:.3f}"
        sheet.lines.append((name, share, *line, times))
    sheet.lines.append(("all", "100%", f"{wall / count * 1000:.3f}", f"{cpu / count * 1000:.3f}", ""))
    sheet.note = (
        f"{count:,} calls in batches of {batch_size}, one after the other; indented stages are not in those above"
    )
    return sheet
