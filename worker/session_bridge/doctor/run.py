"""One examination of a deployment, from the first connection to the last finding."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import psycopg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from session_bridge.archive.connection import Connection
from session_bridge.doctor.calls_checks import CALLS_CHECKS
from session_bridge.doctor.checks import Absent, Check, Finding, Patient, make, one_line
from session_bridge.doctor.deployment_checks import DEPLOYMENT_CHECKS
from session_bridge.doctor.pooler import connect as connect_to_postgres
from session_bridge.doctor.postgres_checks import POSTGRES_CHECKS
from session_bridge.doctor.provider_checks import PROVIDER_CHECKS
from session_bridge.doctor.redis_checks import REDIS_CHECKS, recall
from session_bridge.errors import SettingsError
from session_bridge.live.server import connect as connect_to_redis
from session_bridge.service import addresses
from session_bridge.settings import Settings, without_password

_OPENING_SECONDS = 10.0


async def examine(settings: Settings) -> list[Finding]:
    """Make every check on the deployment of these settings; it changes nothing but what it remembers for next time.

    Raises SettingsError if there are no addresses; nothing else that is wrong keeps it from answering.
    """
    async with _patient(settings) as patient:
        # The two servers and the providers side by side; what concerns both servers after them.
        redis, postgres, providers = await asyncio.gather(
            *[_make_all(checks, patient) for checks in (REDIS_CHECKS, POSTGRES_CHECKS, PROVIDER_CHECKS)]
        )
        return [*redis, *postgres, *await _make_all((*DEPLOYMENT_CHECKS, *CALLS_CHECKS), patient), *providers]


async def _make_all(checks: Sequence[Check], patient: Patient) -> list[Finding]:
    return [await make(check, patient) for check in checks]


@asynccontextmanager
async def _patient(settings: Settings) -> AsyncIterator[Patient]:
    redis_url, database_url = addresses(settings)
    async with AsyncExitStack() as stack:
        redis, postgres = await asyncio.gather(_open_redis(redis_url, stack), _open_postgres(database_url, stack))
        patient = Patient(settings, redis, postgres)
        if isinstance(redis, Redis):
            patient.info = await _info(redis)
            patient.before = await recall(patient)
        yield patient


async def _open_redis(url: str, stack: AsyncExitStack) -> Redis | Absent:
    try:
        redis = await stack.enter_async_context(connect_to_redis(url))
    except (SettingsError, ValueError, TypeError):
        # The error may quote the address, and with it the password.
        return Absent("REDIS_URL is not an address of Redis", "write it as redis://user:password@host:6379/0")
    where = f"Redis at {without_password(url)}"
    try:
        async with asyncio.timeout(_OPENING_SECONDS):
            await redis.execute_command("PING")
    except ResponseError as error:
        return Absent(f"{where} refuses us: {one_line(error)}", "check user, password and ACL in REDIS_URL")
    except (RedisError, OSError, TimeoutError) as error:
        return Absent(f"{where} does not answer: {one_line(error)}", "start it, or correct REDIS_URL")
    return redis


async def _info(redis: Redis) -> dict[str, object]:
    try:
        return cast("dict[str, object]", await redis.info())
    except RedisError:
        # Each check that needs it says so.
        return {}


async def _open_postgres(url: str, stack: AsyncExitStack) -> Connection | Absent:
    try:
        async with asyncio.timeout(_OPENING_SECONDS):
            return await stack.enter_async_context(await connect_to_postgres(url))
    except psycopg.ProgrammingError:
        return Absent(
            "DATABASE_URL is not an address of PostgreSQL",
            "write it as postgresql://user:password@host:5432/database",
        )
    except (psycopg.Error, OSError, TimeoutError) as error:
        return Absent(
            f"PostgreSQL cannot be used: {one_line(error)}",
            "start it, or correct DATABASE_URL; until then sessions are held in Redis, and nothing is lost",
        )
