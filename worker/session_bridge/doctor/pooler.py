"""What stands between us and PostgreSQL, if anything does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from session_bridge.archive.connection import Connection
from session_bridge.doctor.checks import Answer, Patient, Verdict, ok, problem
from session_bridge.service import addresses

_CONNECT_SECONDS = 5
_CHOICE_SECONDS = 3.0
_HOLDERS = 3


async def connect(database_url: str) -> Connection:
    """A connection for the examination, made as the worker makes its own."""
    patience = conninfo_to_dict(database_url).get("connect_timeout") or _CONNECT_SECONDS
    address = make_conninfo(database_url, connect_timeout=patience)
    return await psycopg.AsyncConnection.connect(address, autocommit=True, prepare_threshold=None)


async def find_pooler(patient: Patient) -> Answer:
    """Find a pooler by its greeting, and its mode by making it choose.

    PgBouncer greets with a process id of its own making. In transaction mode, a connection whose server process has
    meanwhile begun somebody else's transaction is given another one. A pooler that passes the server's greeting on,
    as pgpool-II does, is not seen.
    """
    _ = patient.postgres
    address = addresses(patient.settings)[1]
    try:
        async with asyncio.timeout(_CHOICE_SECONDS), await connect(address) as connection, AsyncExitStack() as others:
            pid = await _pid(connection)
            if pid == connection.info.backend_pid:
                return ok("none seen: PostgreSQL itself greeted us")
            for _ in range(_HOLDERS):
                other = await others.enter_async_context(await connect(address))
                await others.enter_async_context(other.transaction())
                await _pid(other)
            mode = "session" if await _pid(connection) == pid else "transaction"
    except TimeoutError:
        return Answer(
            Verdict.UNKNOWN,
            "PgBouncer or the like, whose mode was not found: it had no connection to spare",
            "give its pool more than SESSION_BRIDGE_CONCURRENCY + 1 connections for each worker",
        )
    except psycopg.Error as error:
        if "statement pooling" in str(error):
            return problem("PgBouncer in statement mode, which has no transactions", "set pool_mode = transaction")
        raise
    return ok(f"PgBouncer or the like, in {mode} mode as far as could be seen, which works")


async def _pid(connection: Connection) -> int:
    """The process id of the server that serves this connection now."""
    [[pid]] = await (await connection.execute("SELECT pg_backend_pid()")).fetchall()
    return int(pid)
