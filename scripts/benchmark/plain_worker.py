"""The worker of the plain way, as arq's documentation has one write it: `python -m benchmark.plain_worker`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from arq import Worker
from arq.connections import RedisSettings
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from benchmark.handmade import BOOK, CONTENTS, cells_of, lines_of
from benchmark.lab import KEYS
from benchmark.plain import QUEUE, STARTED

_CONNECTIONS = 10


async def archive_call(context: dict[str, Any], call_sid: str) -> None:
    """Archive one call."""
    key = KEYS.session(call_sid)
    lines = lines_of(call_sid, await context["redis"].hgetall(key))
    async with context["pool"].connection() as connection, connection.cursor() as cursor:
        for table, found in lines.items():
            if found:
                await cursor.executemany(_insert(table, tuple(found[0])), [cells_of(table, line) for line in found])
    await context["redis"].delete(key)


def _insert(table: str, columns: tuple[str, ...]) -> sql.Composed:
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() * len(columns)),
    )
    return statement + sql.SQL(" ON CONFLICT DO NOTHING") if table in (CONTENTS, BOOK) else statement


async def _start(context: dict[str, Any]) -> None:
    context["pool"] = AsyncConnectionPool(os.environ["DATABASE_URL"], max_size=_CONNECTIONS, open=False)
    await context["pool"].open()
    await context["redis"].set(STARTED, 1)


async def _stop(context: dict[str, Any]) -> None:
    await context["pool"].close()


async def _main() -> None:
    worker = Worker(
        functions=[archive_call],  # type: ignore[list-item]  # arq's own protocol wants *args
        redis_settings=RedisSettings.from_dsn(os.environ["REDIS_URL"]),
        queue_name=QUEUE,
        on_startup=_start,  # type: ignore[arg-type]
        on_shutdown=_stop,  # type: ignore[arg-type]
        max_jobs=int(os.environ["PLAIN_MAX_JOBS"]),
        poll_delay=float(os.environ["PLAIN_POLL_SECONDS"]),
    )
    with contextlib.suppress(asyncio.CancelledError):  # what SIGTERM comes to
        await worker.async_run()


if __name__ == "__main__":
    asyncio.run(_main())
