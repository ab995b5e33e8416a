"""One deployment of the bridge, put together from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.contract.keys import Keys
from session_bridge.drain.drainer import Drainer
from session_bridge.drain.loop import DrainLoop
from session_bridge.drain.outcome import load_outcome
from session_bridge.drain.prepare import DrainRules
from session_bridge.drain.understand import Understanding
from session_bridge.errors import SettingsError
from session_bridge.live.failover import Failovers
from session_bridge.live.overview import Overview
from session_bridge.live.scan import SessionScan
from session_bridge.live.server import claim_archive, connect, require_usable
from session_bridge.live.sessions import LiveSessions
from session_bridge.settings import Settings, without_password
from session_bridge.sweep.rules import SweepRules
from session_bridge.sweep.sweeper import Sweeper


@dataclass(slots=True)
class Bridge:
    """The parts of one deployment, connected."""

    settings: Settings
    keys: Keys
    redis: Redis
    connections: ArchiveConnections
    live: LiveSessions
    drainer: Drainer
    loop: DrainLoop
    overview: Overview
    scan: SessionScan
    sweeper: Sweeper
    failovers: Failovers

    @property
    def queue_redis_url(self) -> str:
        """Where the arq queue is."""
        return self.settings.queue_redis_url or addresses(self.settings)[0]

    async def check(self) -> None:
        """Raise, with what to do, unless both servers answer, the archive is migrated, and the two belong together."""
        await require_usable(self.redis, without_password(addresses(self.settings)[0]))
        await self.connections.require_current()
        await claim_archive(self.redis, self.keys, await self.connections.identity())


def addresses(settings: Settings) -> tuple[str, str]:
    """The addresses of Redis and PostgreSQL; raises SettingsError if they are not set."""
    if settings.redis_url is None or settings.database_url is None:
        raise SettingsError(
            "REDIS_URL and DATABASE_URL are not set: set both, or run `session-bridge up` for embedded servers"
        )
    return settings.redis_url, settings.database_url


def understanding_of(settings: Settings) -> Understanding:
    """The rules by which these settings have fields read."""
    return Understanding(settings.ignore_fields, settings.max_events, settings.metric_unit, settings.zone)


def archive_of(settings: Settings) -> ArchiveConnections:
    """Connections to the archive of these settings, not opened yet.

    There is one for each transaction that writes, and one beside them to look things up with.
    """
    return ArchiveConnections(
        addresses(settings)[1],
        schema=settings.db_schema,
        size=settings.concurrency + 1,
        transaction_seconds=settings.transaction_seconds,
    )


@asynccontextmanager
async def open_bridge(settings: Settings, *, check: bool = True) -> AsyncIterator[Bridge]:
    """The bridge of these settings, its servers checked first unless told otherwise, and closed at the end."""
    redis_url, _ = addresses(settings)
    keys = settings.keys
    redis = connect(redis_url)
    async with redis, archive_of(settings) as connections:
        live = LiveSessions(redis, keys, max_field_bytes=settings.max_field_bytes)
        rules = DrainRules(
            understanding_of(settings), load_outcome(settings.outcome), settings.lease_seconds, settings.max_attempts
        )
        drainer = Drainer(live, connections, rules, concurrency=settings.concurrency)
        overview = Overview(redis, keys)
        loop = DrainLoop(
            redis,
            keys,
            live,
            drainer,
            overview,
            batch_size=settings.batch_size,
            concurrency=settings.concurrency,
            lease_seconds=settings.lease_seconds,
        )
        scan = SessionScan(redis, keys)
        sweep_rules = SweepRules(
            settings.ttl_seconds,
            settings.sweep_seconds,
            settings.idle_seconds,
            settings.abandon_seconds,
            settings.checkpoint_seconds,
            settings.zone,
        )
        sweeper = Sweeper(scan, connections, sweep_rules)
        failovers = Failovers(redis, keys)
        bridge = Bridge(settings, keys, redis, connections, live, drainer, loop, overview, scan, sweeper, failovers)
        if check:
            await bridge.check()
        yield bridge
