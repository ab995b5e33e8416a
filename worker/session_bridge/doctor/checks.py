"""What all checks share: what they look at, what they answer, and that none takes the others along."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

import psycopg
from psycopg import sql
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from session_bridge.archive.connection import Connection
from session_bridge.contract.keys import Keys
from session_bridge.errors import BridgeError
from session_bridge.settings import Settings

_PATIENCE_SECONDS = 15.0
_STATEMENT_SECONDS = 5
_LONGEST_LINE = 300
_PINGS = 5
_SLOW_SECONDS = 0.010
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


class Verdict(StrEnum):
    """What a check makes of what it found."""

    OK = "ok"
    ADVICE = "advice"
    """It works, and could be better or safer."""
    PROBLEM = "problem"
    """Calls are lost, or will be, or are not archived."""
    UNKNOWN = "unknown"
    """It could not be looked at, and `found` says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check found, and what to do about it; one line each."""

    verdict: Verdict
    found: str
    do: str = ""


def ok(found: str) -> Answer:
    """All is well."""
    return Answer(Verdict.OK, found)


def advice(found: str, do: str) -> Answer:
    """Better do this."""
    return Answer(Verdict.ADVICE, found, do)


def problem(found: str, do: str) -> Answer:
    """Do this."""
    return Answer(Verdict.PROBLEM, found, do)


class CannotTellError(Exception):
    """A check cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A server that could not be reached: why, and what to do."""

    why: str
    do: str


@dataclass(slots=True)
class Patient:
    """One deployment under examination; either server may be absent.

    `info` is what Redis says of itself, and `before` what was remembered of that by the last examination.
    """

    settings: Settings
    redis_or_absent: Redis | Absent
    postgres_or_absent: Connection | Absent
    info: Mapping[str, object] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> Keys:
        """The names of the deployment's Redis keys."""
        return self.settings.keys

    @property
    def redis(self) -> Redis:
        """Redis; raises CannotTellError if it is absent."""
        if isinstance(self.redis_or_absent, Absent):
            raise CannotTellError("Redis was not reached")
        return self.redis_or_absent

    @property
    def postgres(self) -> Connection:
        """A connection to PostgreSQL, in no transaction; raises CannotTellError if it is absent."""
        if isinstance(self.postgres_or_absent, Absent):
            raise CannotTellError("PostgreSQL was not reached")
        if self.postgres_or_absent.closed:
            raise CannotTellError("the connection to PostgreSQL was lost on the way")
        return self.postgres_or_absent

    @asynccontextmanager
    async def archive(self) -> AsyncIterator[Connection]:
        """A transaction that reads, for a few seconds at most, and finds the archive's tables by their names."""
        connection = self.postgres
        limits = sql.SQL(
            "SET TRANSACTION READ ONLY; SET LOCAL search_path = {}, pg_catalog; SET LOCAL statement_timeout = {}"
        ).format(sql.Identifier(self.settings.db_schema), _STATEMENT_SECONDS * 1000)
        async with connection.transaction():
            await connection.execute(limits)
            yield connection

    def says(self, name: str) -> str:
        """A line of Redis' INFO; raises CannotTellError where there is none."""
        _ = self.redis
        if name not in self.info:
            raise CannotTellError(f"INFO shows no {name}" if self.info else "this user may not run INFO")
        return str(self.info[name])

    def counts(self, name: str) -> int:
        """A number in Redis' INFO; raises CannotTellError where there is none."""
        return int(self.says(name))


@dataclass(frozen=True, slots=True)
class Check:
    """One question to a deployment; `id` is for programs and never changes."""

    id: str
    title: str
    examine: Callable[[Patient], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    id: str
    title: str
    verdict: Verdict
    found: str
    do: str


async def make(check: Check, patient: Patient) -> Finding:
    """Make one check. Whatever goes wrong with it is a finding too."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            answer = await check.examine(patient)
    except CannotTellError as error:
        answer = Answer(Verdict.UNKNOWN, str(error))
    except TimeoutError:
        answer = Answer(Verdict.UNKNOWN, f"no answer within {_PATIENCE_SECONDS:.0f} s", "try again")
    except (psycopg.errors.InsufficientPrivilege, NoPermissionError) as error:
        answer = Answer(Verdict.UNKNOWN, one_line(error), "allow it to this user, or have somebody look who may")
    except (psycopg.Error, RedisError, BridgeError, OSError) as error:
        answer = Answer(Verdict.UNKNOWN, one_line(error), "look at the server's log, and try again")
    except Exception as error:  # noqa: BLE001  # a bug of one check must not keep the others from being seen
        answer = Answer(Verdict.UNKNOWN, f"the check itself failed: {one_line(error)}", "please report it")
    return Finding(check.id, check.title, answer.verdict, answer.found, answer.do)


async def answering(server: object, ask: Callable[[], Awaitable[object]], name: str) -> Answer:
    """Whether a server answers, and how fast; `ask` is one round trip to it."""
    if isinstance(server, Absent):
        return problem(server.why, server.do)
    times = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        await ask()
        times.append(time.perf_counter() - began)
    median = statistics.median(times)
    found = f"a round trip takes {median * 1000:.2g} ms"
    if median > _SLOW_SECONDS:
        return advice(found, f"run the workers nearer to {name}: each batch of drains needs several round trips")
    return ok(found)


def one_line(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} …"


def is_loopback(host: str) -> bool:
    """Whether the way to this host, or to this folder of a socket, stays on this machine."""
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def spell(seconds: float) -> str:
    """A duration as a person says it."""
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
