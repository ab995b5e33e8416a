"""Strikes as the schedule says, and measures how soon the archive grows again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import psycopg

from chaos_campaign.proxy import Aim, Proxy
from chaos_campaign.schedule import Fault, Kind
from chaos_campaign.workers import Team
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey

# Only a transaction that writes calls also writes the journal, of which this is a column, whichever way its rows are
# written; others read, and their COMMIT is of no interest.
_AFTER, _COMMIT = b'"detail"', b"COMMIT\x00"
_AIM_SECONDS = 15.0
_SIGNALS = {Kind.KILL: signal.SIGKILL, Kind.TERMINATE: signal.SIGTERM}
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that happened: its kind, and when it was over by the clock of the event loop."""

    kind: Kind
    over: float


@dataclass(slots=True)
class Scene:
    """All that can be struck."""

    team: Team
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    to_postgres: Proxy
    to_valkey: Proxy
    environment: Mapping[str, str]
    """That of workers and recorders: it leads through the proxies."""

    recorders: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)
    """The recording processes that run, by their place."""
    killed_recorders: set[int] = field(default_factory=set)
    """The process ids of those that were killed."""
    struck: list[Struck] = field(default_factory=list)
    missed: int = 0
    """Shots at a COMMIT for which none came by; a plain reset took their place."""
    _postgres_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _valkey_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def perform(self, faults: Sequence[Fault], progress: Callable[[Kind], None]) -> None:
        """Strike each at its moment; they may overlap."""
        clock = asyncio.get_running_loop().time
        began = clock()

        async def strike(fault: Fault) -> None:
            await asyncio.sleep(max(0.0, began + fault.at - clock()))
            kind = await self._strike(fault)
            self.struck.append(Struck(kind, clock()))
            progress(kind)

        async with asyncio.TaskGroup() as striking:
            for fault in faults:
                striking.create_task(strike(fault))

    async def _strike(self, fault: Fault) -> Kind:
        match fault.kind:
            case Kind.KILL | Kind.TERMINATE:
                await self.team.strike(_SIGNALS[fault.kind], fault.pick)
            case Kind.RECORDER:
                if running := list(self.recorders.values()):
                    process = running[int(fault.pick * len(running))]
                    self.killed_recorders.add(process.pid)
                    process.kill()
            case Kind.POSTGRES:
                async with self._postgres_lock:
                    await asyncio.to_thread(self.postgres.stop, "immediate")
                    await asyncio.sleep(fault.lasts)
                    await asyncio.to_thread(self.postgres.start)
            case Kind.VALKEY:
                async with self._valkey_lock:
                    await asyncio.to_thread(self.valkey.kill)
                    await asyncio.sleep(fault.lasts)
                    await asyncio.to_thread(self.valkey.start)
            case Kind.COMMIT_UNHEARD | Kind.COMMIT_SWALLOWED:
                aim = Aim(_AFTER, _COMMIT, swallowed=fault.kind is Kind.COMMIT_SWALLOWED)
                if not await self.to_postgres.hit(aim, _AIM_SECONDS):
                    self.missed += 1
                    self.to_postgres.reset()
                    return Kind.POSTGRES_RESET
            case _:
                await self._fail_network(fault)
        return fault.kind

    async def _fail_network(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.POSTGRES_CUT:
                await self.to_postgres.cut(fault.lasts)
            case Kind.VALKEY_CUT:
                await self.to_valkey.cut(fault.lasts)
            case Kind.POSTGRES_STALL:
                await self.to_postgres.stall(fault.lasts)
            case Kind.VALKEY_STALL:
                await self.to_valkey.stall(fault.lasts)
            case Kind.VALKEY_RESET:
                self.to_valkey.reset()
            case Kind.POSTGRES_RESET:
                self.to_postgres.reset()


@dataclass(slots=True)
class CommitWatch:
    """Notes when drains were committed, by asking PostgreSQL itself twenty times a second."""

    database_url: str
    commits: list[float] = field(default_factory=list)
    drains: int = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError):
                async with await psycopg.AsyncConnection.connect(self.database_url, autocommit=True) as connection:
                    await self._look(connection)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self, connection: psycopg.AsyncConnection[tuple[int]]) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            cursor = await connection.execute("SELECT coalesce(sum(drains), 0)::int FROM call_sids")
            row = await cursor.fetchone()
            if row is not None and row[0] != self.drains:
                self.drains = row[0]
                self.commits.append(clock())
            await asyncio.sleep(_LOOK_SECONDS)

    def seconds_to_next(self, moment: float) -> float | None:
        """How long after a moment the next drain was committed; None if none was."""
        place = bisect_left(self.commits, moment)
        return self.commits[place] - moment if place < len(self.commits) else None

    def longest_pause(self) -> float:
        """The longest time without a commit between two."""
        return max((after - before for before, after in pairwise(self.commits)), default=0.0)
