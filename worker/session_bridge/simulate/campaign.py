"""Plays many calls at once, and finds out what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random, SystemRandom

from redis.asyncio import Redis

from session_bridge.contract.keys import Keys
from session_bridge.drain.summary import percentile
from session_bridge.live.server import connect
from session_bridge.live.sessions import redis_errors
from session_bridge.service import addresses, archive_of
from session_bridge.settings import Settings
from session_bridge.simulate.call import Ending, SimulatedCall
from session_bridge.simulate.play import DEFAULT_SPEED, play, send_late
from session_bridge.simulate.script import script
from session_bridge.simulate.tally import Transcript, rows_by_table, transcript_of
from session_bridge.simulate.watch import ArchiveWatch, Arrival, watching

AT_ONCE = 16
PATIENCE_SECONDS = 20.0

Progress = Callable[[int, int], None]
"""Told, whenever it changes, how many calls have been recorded and how many of them archived."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be played: so many calls of this seed, so fast."""

    calls: int
    seed: int
    speed: float = DEFAULT_SPEED
    at_once: int = AT_ONCE
    patience: float = PATIENCE_SECONDS
    """How many seconds may go by without any call being archived, before the rest is given up."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the calls that were played."""

    calls: int
    archived: int
    seed: int
    seconds: float
    endings: Mapping[str, int]
    rows: Mapping[str, int]
    """By table, of these calls only."""
    median_ms: float | None
    """From hang-up to archived, as the next; None if nothing was archived."""
    p99_ms: float | None
    transcript: Transcript | None

    @property
    def complete(self) -> bool:
        """Whether every call is in the archive."""
        return self.archived == self.calls


@dataclass(slots=True)
class _Run:
    """A campaign under way."""

    campaign: Campaign
    keys: Keys
    redis: Redis
    watch: ArchiveWatch
    progress: Progress
    slots: asyncio.Semaphore
    ids: Random = field(default_factory=SystemRandom)
    recorded: int = 0
    archived: dict[int, tuple[SimulatedCall, Arrival]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    async def all(self) -> None:
        tasks = [asyncio.create_task(self._one(number)) for number in range(self.campaign.calls)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        call = script(f"{self.campaign.seed}/{number}", ids=self.ids)
        async with self.slots, redis_errors():
            if self.watch.gave_up:
                return
            due = await play(call, self.redis, self.keys, speed=self.campaign.speed)
        self.recorded += 1
        self._tell()
        arrival = await self.watch.arrival(call.call_sid, due)
        if arrival is None:
            return
        self.seconds.append(max(0.0, arrival.seen - due))
        if call.ending is Ending.LATE:
            async with redis_errors():
                asked = await send_late(call, self.redis, self.keys)
            arrival = await self.watch.arrival(call.call_sid, asked, after_drains=arrival.record.drains)
            if arrival is None:
                return
        self.archived[number] = (call, arrival)
        self._tell()

    def _tell(self) -> None:
        self.progress(self.recorded, len(self.archived))


async def run_campaign(campaign: Campaign, settings: Settings, progress: Progress) -> Report:
    """Play the calls on the servers of `settings`, wait until they are archived, and count what is there.

    Each call has a SID of its own, also where its conversation was played before. Raises RedisUnavailableError or
    ArchiveUnavailableError if a server goes away meanwhile.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    async with connect(addresses(settings)[0]) as redis, archive_of(settings) as connections:
        async with watching(connections, campaign.patience) as watch:
            run = _Run(campaign, settings.keys, redis, watch, progress, asyncio.Semaphore(campaign.at_once))
            await run.all()
        seconds = clock() - began
        arrivals = [run.archived[number] for number in sorted(run.archived)]
        async with connections.transaction() as connection:
            rows = await rows_by_table(connection, [arrival.record.session_id for _, arrival in arrivals])
            whole = [pair for pair in arrivals if pair[0].ending is not Ending.DISCONNECT] or arrivals
            transcript = await transcript_of(connection, *whole[0]) if whole else None
    milliseconds = sorted(1000 * value for value in run.seconds)
    endings = [call.ending for call, _ in arrivals]
    return Report(
        calls=campaign.calls,
        archived=len(arrivals),
        seed=campaign.seed,
        seconds=seconds,
        endings={str(ending): endings.count(ending) for ending in Ending},
        rows=rows,
        median_ms=percentile(milliseconds, 0.5),
        p99_ms=percentile(milliseconds, 0.99),
        transcript=transcript,
    )
