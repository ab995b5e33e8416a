"""Whatever the interleaving of writers, drains, crashes, sweeps and requests, the archive is that of one drain.

A program is a list of steps on one call. Two workers in this process drain it; each can be paused at a step of its
drain, gone on with, or killed there. At the end all that was written, newest value by newest value, is written once as
another call and drained once: the two must be archived alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from session_bridge.archive import writer
from session_bridge.archive.tables import CHILDREN
from session_bridge.drain import drainer as drainer_module
from session_bridge.drain.drainer import Drainer
from session_bridge.drain.prepare import DrainRules
from session_bridge.errors import RedisUnavailableError
from session_bridge.ledger import take_ledger
from session_bridge.live.sessions import LiveSessions
from session_bridge.live.snapshot import Claim, Queue, Release, Snapshot

POINTS = ("read", "write", "written", "release", "released")
FIELDS = ("agent_name", "summary", "recording_url", "final_node", "unheard_of")
EVENTS = ("message:1", "message:2", "message:aux", "metric:1", "cost:1", "mood:1")
STATUSES = ("initiated", "ringing", "in-progress", "completed")
# A call that worker after worker dies of is dead, and rightly so.
MOST_KILLS = 2
LEASE_SECONDS = 30
# What depends on how often, why and when it was drained.
OWN = ["id", "session_id", "call_sid", "drains", "first_archived_at", "archived_at"]
OWN += ["finalize_reason", "finalized_by", "completeness"]

numbers = itertools.count(1)


# -- programs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    """A plain HSET of some fields; each gets a value that was never there."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Blank:
    """An empty value where nothing waits to be drained: it must take nothing away."""

    name: str


@dataclass(frozen=True)
class Status:
    """A status, in whatever order."""

    word: str


@dataclass(frozen=True)
class Ask:
    """A plain ZADD."""


@dataclass(frozen=True)
class Withdraw:
    """A plain ZREM."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint is asked for."""


@dataclass(frozen=True)
class NearExpiry:
    """The session is about to expire, and a sweep comes by."""


@dataclass(frozen=True)
class Drain:
    """All that is due is drained, by nobody who is paused."""


@dataclass(frozen=True)
class Begin:
    """A worker claims what is due, and is paused at a point of its drain."""

    worker: int
    point: str


@dataclass(frozen=True)
class GoOn:
    """A paused worker goes on to the end."""

    worker: int


@dataclass(frozen=True)
class Kill:
    """A paused worker is no more, and its lease runs out."""

    worker: int


Step: TypeAlias = Write | Blank | Status | Ask | Withdraw | Checkpoint | NearExpiry | Drain | Begin | GoOn | Kill

workers = st.sampled_from((0, 1))
writes = st.lists(st.sampled_from((*FIELDS, *EVENTS)), min_size=1, max_size=4, unique=True).map(
    lambda names: Write(tuple(names))
)
begins = st.builds(Begin, workers, st.sampled_from(POINTS))
steps: st.SearchStrategy[Step] = st.one_of(
    writes,
    writes,
    st.builds(Blank, st.sampled_from(FIELDS)),
    st.builds(Status, st.sampled_from(STATUSES)),
    st.just(Ask()),
    st.just(Ask()),
    begins,
    begins,
    st.builds(GoOn, workers),
    st.builds(Kill, workers),
    st.sampled_from((Drain(), Withdraw(), Checkpoint(), NearExpiry())),
)


# -- workers that can be paused ---------------------------------------------------------------------------------------


@dataclass
class PausableWorker:
    """One worker: its drain, and the point at which that is to be paused."""

    drain: asyncio.Task[None] | None = None
    point: str = ""
    paused: asyncio.Event = field(default_factory=asyncio.Event)
    going_on: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False

    async def reach(self, point: str) -> None:
        """Be at this point; returns when the worker may go on."""
        if point == self.point:
            self.paused.set()
            await self.going_on.wait()


current: ContextVar[PausableWorker | None] = ContextVar("current", default=None)


async def reach(point: str) -> None:
    if worker := current.get():
        await worker.reach(point)


class PausingSessions(LiveSessions):
    """Live sessions whose worker can be paused around what it does with them, and which a dead worker cannot reach."""

    @asynccontextmanager
    async def reading(self, group: Sequence[Snapshot], *, outline: bool = False) -> AsyncIterator[None]:
        async with super().reading(group, outline=outline):
            await reach("read")
            yield

    async def release(self, snapshots: Sequence[Snapshot]) -> list[Release]:
        await reach("release")
        outcomes = await super().release(snapshots)
        await reach("released")
        return outcomes

    async def settle(self, claim: Claim, how: str, *, delay_seconds: float = 0) -> str:
        worker = current.get()
        if worker is not None and worker.killed:
            raise RedisUnavailableError("the dead do not write")
        return await super().settle(claim, how, delay_seconds=delay_seconds)


@pytest.fixture
async def opened(bridge_with: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A bridge with connections for both workers, the writing of which can be paused too."""
    write = writer.write

    async def pausing_write(*arguments: Any) -> set[str]:
        await reach("write")
        written = await write(*arguments)
        await reach("written")
        return written

    monkeypatch.setattr(drainer_module, "write", pausing_write)
    return await bridge_with(concurrency=4)


# -- one run of a program ---------------------------------------------------------------------------------------------


class Run:
    """One program on one call."""

    def __init__(self, opened: Any) -> None:
        self.opened = opened
        self.bridge = opened.bridge
        self.redis = opened.redis
        self.sid = f"CAmodel{next(numbers)}"
        self.began = datetime.now(UTC) - timedelta(minutes=10)
        self.clock = itertools.count(1)
        self.written: dict[str, str] = {}
        self.workers = [PausableWorker(), PausableWorker()]
        self.kills = 0

    async def perform(self, step: Step) -> None:
        key, keys = self.opened.key(self.sid), self.bridge.keys
        match step:
            case Write(names):
                await self.write({name: self.value(name) for name in names})
            case Blank(name) if not await self.redis.hexists(key, name):
                await self.opened.write(self.sid, {name: ""})
            case Status(word):
                await self.write({"status": word})
            case Ask():
                await self.ask()
            case Withdraw():
                await self.redis.zrem(keys.ready, self.sid)
            case Checkpoint():
                await self.redis.zadd(keys.checkpoints, {self.sid: 0})
            case NearExpiry():
                await self.redis.expire(key, 50)
                await self.bridge.sweeper.sweep(limit=100)
                assert await self.redis.ttl(key) in (-1, -2), "it was not held"
            case Drain():
                await self.drain()
            case Begin(number, point):
                await self.begin(number, point)
            case GoOn(number):
                await self.go_on(number)
            case Kill(number):
                await self.kill(number)

    async def write(self, fields: dict[str, str]) -> None:
        fields |= {"last_activity_at": self.moment(), "started_at": self.began.isoformat()}
        self.written |= fields
        await self.opened.write(self.sid, fields)

    def value(self, name: str) -> str:
        number = next(self.clock)
        family, colon, _ = name.partition(":")
        if not colon:
            return f"{name} {number}"
        stamped = {"timestamp": self.moment()}
        events: dict[str, dict[str, Any]] = {
            "message": {"role": ("user", "assistant")[number % 2], "content": f"word {number}"},
            "metric": {"metric_type": "llm_ttfb", "value": number},
            "cost": {"service": "llm", "amount_cents": number},
            "mood": {"label": number},
        }
        return json.dumps(events[family] | stamped)

    def moment(self) -> str:
        return (self.began + timedelta(seconds=next(self.clock))).isoformat()

    async def ask(self) -> None:
        await self.redis.zadd(self.bridge.keys.ready, {self.sid: time.time_ns() // 1_000_000})

    async def drain(self) -> None:
        await self.bridge.loop.drain_once()

    async def begin(self, number: int, point: str) -> None:
        worker = self.workers[number]
        if worker.drain is not None:
            return
        live = PausingSessions(self.redis, self.bridge.keys, max_field_bytes=1 << 20)
        for queue in Queue:
            if claims := (await live.claim(queue, 10, LEASE_SECONDS)).taken:
                drainer = Drainer(live, self.bridge.connections, DrainRules(lease_seconds=LEASE_SECONDS))
                worker = self.workers[number] = PausableWorker(point=point)
                token = current.set(worker)
                worker.drain = asyncio.create_task(drainer.drain(claims))
                current.reset(token)
                paused = asyncio.create_task(worker.paused.wait())
                await asyncio.wait([paused, worker.drain], return_when=asyncio.FIRST_COMPLETED)
                paused.cancel()
                return

    async def go_on(self, number: int) -> None:
        worker = self.workers[number]
        if worker.drain is not None:
            worker.going_on.set()
            await worker.drain
            worker.drain = None

    async def kill(self, number: int) -> None:
        worker = self.workers[number]
        if worker.drain is None or worker.drain.done() or self.kills == MOST_KILLS:
            return
        self.kills += 1
        worker.killed = True
        worker.drain.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker.drain
        worker.drain = None
        await self.run_leases_out()

    async def run_leases_out(self) -> None:
        """The leases that nobody holds any more are over."""
        if all(worker.drain is None for worker in self.workers):
            for queue in (self.bridge.keys.ready, self.bridge.keys.checkpoints):
                for sid, score in await self.redis.zrange(queue, 0, -1, withscores=True):
                    if not score.is_integer():
                        await self.redis.zadd(queue, {sid: score - (LEASE_SECONDS + 1) * 1000}, xx=True)

    async def finish(self) -> None:
        """The call ends in an orderly way, and all that is due is drained."""
        for number in range(len(self.workers)):
            await self.go_on(number)
        await self.run_leases_out()
        # What was let go is archived, and no sweep will take it for lost.
        assert not (await take_ledger(self.bridge)).missing
        await self.write({"status": "completed", "ended_at": self.moment()})
        await self.ask()
        for _ in range(100):
            await self.drain()
            if not await self.redis.zcard(self.bridge.keys.ready):
                break
            await self.redis.zadd(self.bridge.keys.ready, {self.sid: 0}, xx=True)
        assert await self.opened.is_gone(self.sid)
        await self.redis.delete(self.bridge.keys.checkpoints)

    async def archived(self, sid: str) -> dict[str, list[Any]]:
        """All that is archived of a call, but for what names it and tells how it was drained."""
        found = {}
        for table in ("call_sessions", *(table.name for table in CHILDREN), "call_session_rejects"):
            key = "id" if table == "call_sessions" else "session_id"
            query = f"SELECT to_jsonb(t) - %s::text[] AS row FROM {table} AS t WHERE {key} IN "
            query += "(SELECT session_id FROM call_sids WHERE call_sid = %s) ORDER BY 1"
            found[table] = [row["row"] for row in await self.opened.rows(query, OWN, sid)]
        return found


@contextlib.asynccontextmanager
async def running(opened: Any) -> AsyncIterator[Run]:
    run = Run(opened)
    try:
        yield run
    finally:
        # Also after a failure: the next example is to find nothing of this one.
        for worker in run.workers:
            if worker.drain is not None:
                worker.drain.cancel()
                await asyncio.gather(worker.drain, return_exceptions=True)
        await run.redis.flushdb()


RACING_CHECKPOINT = [Ask(), Begin(0, "release"), Checkpoint(), Begin(1, "read"), GoOn(0), GoOn(1)]

# A drain that learns late that its request was withdrawn, when another request was met long since.
LATE_WITHDRAWAL = [Ask(), Begin(0, "release"), Withdraw(), Ask(), Drain(), GoOn(0)]

# Events that are archived are written once more, with other values.
WRITTEN_ANEW = [Write(EVENTS), Ask(), Drain(), Write(EVENTS)]


@example(program=RACING_CHECKPOINT)
@example(program=LATE_WITHDRAWAL)
@example(program=WRITTEN_ANEW)
@given(program=st.lists(steps, max_size=16))
@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_the_archive_is_that_of_one_drain(opened: Any, program: list[Step]) -> None:
    async with running(opened) as run:
        await run.write({"provider": "twilio"})
        for step in program:
            await run.perform(step)
        await run.finish()

        once = f"{run.sid}-once"
        await run.opened.ask(once, run.written)
        await run.drain()
        note(f"written: {run.written}")
        assert await run.archived(run.sid) == await run.archived(once)
        assert not await run.opened.rows("SELECT FROM dead_sessions")
