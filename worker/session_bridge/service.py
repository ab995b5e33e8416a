"""One deployment of the bridge, put together from its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from redis.asyncio import Redis

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.credits import CreditPolicy
from session_bridge.contract.keys import Keys
from session_bridge.contract.rates import currency_of
from session_bridge.drain.drainer import Drainer
from session_bridge.drain.loop import DrainLoop
from session_bridge.drain.money import Money
from session_bridge.drain.outcome import load_outcome
from session_bridge.drain.prepare import DrainRules
from session_bridge.drain.understand import Understanding
from session_bridge.errors import ArchiveUnavailableError, SettingsError, WrongArchiveError
from session_bridge.live.budgets import BudgetBoard
from session_bridge.live.failover import Failovers
from session_bridge.live.overview import Overview
from session_bridge.live.questions import QuestionRules, Questions
from session_bridge.live.scan import SessionScan
from session_bridge.live.server import claim_archive, connect, require_usable
from session_bridge.live.sessions import LiveSessions
from session_bridge.providers.directory import Directory
from session_bridge.redaction import load_redaction
from session_bridge.settings import Settings, without_password
from session_bridge.sweep.inquiry import Inquiry
from session_bridge.sweep.rules import SweepRules
from session_bridge.sweep.sweeper import Sweeper

_FIRST_WAIT_SECONDS = 30.0
UPKEEP_SECONDS = 6 * 3600.0
"""A limit only against what would hang for ever: a month may take its hours to be written to a file."""


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
    directory: Directory
    inquiry: Inquiry
    board: BudgetBoard
    money: Money
    readers: ArchiveConnections
    """Connections for those who only read: to the replica, if there is one, else `connections`."""
    failovers: Failovers

    @property
    def queue_redis_url(self) -> str:
        """Where the arq queue is."""
        return self.settings.queue_redis_url or addresses(self.settings)[0]

    async def check(self) -> None:
        """Raise, with what to do, unless both servers answer, the archive is migrated, and the two belong together."""
        await require_usable(self.redis, without_password(addresses(self.settings)[0]))
        await self.connections.require_current()
        identity = await self.connections.identity()
        await claim_archive(self.redis, self.keys, identity)
        if self.readers is not self.connections:
            await _require_replica(self.readers, identity)


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


def credit_policy_of(settings: Settings) -> CreditPolicy | None:
    """How these settings have calls settled; None if they do not."""
    if settings.credits == "off":
        return None
    floor = settings.credit_floor_cents if settings.credits == "floor" else None
    return CreditPolicy(currency_of(settings.credit_currency), floor)


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


def question_rules(settings: Settings) -> QuestionRules:
    """The rules by which these settings have providers asked whether a call lives."""
    return QuestionRules(
        per_minute=settings.questions_per_minute,
        # From one answer that it lives to the next question: as long as silence may last.
        vouch_seconds=settings.abandon_seconds,
        first_wait_seconds=min(_FIRST_WAIT_SECONDS, settings.abandon_seconds),
        keep_seconds=2 * max(settings.abandon_seconds, settings.not_found_seconds),
    )


def _readers_of(settings: Settings, url: str) -> ArchiveConnections:
    return ArchiveConnections(url, schema=settings.db_schema, size=2, transaction_seconds=settings.transaction_seconds)


async def _require_replica(readers: ArchiveConnections, identity: str) -> None:
    if await readers.identity() != identity:
        raise WrongArchiveError(
            "SESSION_BRIDGE_READ_DATABASE_URL leads to another archive than DATABASE_URL: name a replica of it"
        )


@asynccontextmanager
async def open_readers(settings: Settings) -> AsyncIterator[ArchiveConnections]:
    """Connections for those who only read: to the replica, if there is one, also while the archive itself is away."""
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(archive_of(settings))
        if settings.read_database_url is None:
            await archive.require_current()
            yield archive
            return
        readers = await stack.enter_async_context(_readers_of(settings, settings.read_database_url))
        await readers.require_current()
        with suppress(ArchiveUnavailableError):
            await _require_replica(readers, await archive.identity())
        yield readers


def upkeep_of(settings: Settings) -> ArchiveConnections:
    """Connections for what takes its time and waits for nobody's lease: retention, exports, erasure. Not opened yet."""
    return ArchiveConnections(
        addresses(settings)[1], schema=settings.db_schema, size=2, transaction_seconds=UPKEEP_SECONDS
    )


@asynccontextmanager
async def open_bridge(settings: Settings, *, check: bool = True) -> AsyncIterator[Bridge]:
    """The bridge of these settings, its servers checked first unless told otherwise, and closed at the end."""
    redis_url, _ = addresses(settings)
    keys = settings.keys
    redis = connect(redis_url)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(redis)
        connections = await stack.enter_async_context(archive_of(settings))
        readers = connections
        if settings.read_database_url is not None:
            readers = await stack.enter_async_context(_readers_of(settings, settings.read_database_url))
        live = LiveSessions(
            redis, keys, max_field_bytes=settings.max_field_bytes, redaction=load_redaction(settings.redact)
        )
        board = BudgetBoard(redis, keys)
        money = Money(
            connections,
            board,
            rated=settings.rates,
            policy=credit_policy_of(settings),
            every_seconds=settings.rates_seconds,
        )
        rules = DrainRules(
            understanding_of(settings),
            load_outcome(settings.outcome),
            settings.lease_seconds,
            settings.max_attempts,
            settings.abandon_seconds,
            money.rules,
        )
        drainer = Drainer(live, connections, rules, money, concurrency=settings.concurrency)
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
        directory = Directory(settings)
        stack.push_async_callback(directory.close)
        inquiry = Inquiry(directory, Questions(redis, keys, question_rules(settings)), scan)
        sweeper = Sweeper(scan, connections, sweep_rules, inquiry)
        bridge = Bridge(
            settings=settings,
            keys=keys,
            redis=redis,
            connections=connections,
            live=live,
            drainer=drainer,
            loop=loop,
            overview=overview,
            scan=scan,
            sweeper=sweeper,
            directory=directory,
            inquiry=inquiry,
            board=board,
            money=money,
            readers=readers,
            failovers=Failovers(redis, keys),
        )
        if check:
            await bridge.check()
        yield bridge
