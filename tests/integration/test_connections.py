"""Connections to an archive that is away, or that lets nobody in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.errors import ArchiveUnavailableError


@asynccontextmanager
async def connections_to(url: str) -> AsyncIterator[ArchiveConnections]:
    async with ArchiveConnections(url, schema="public", size=3, transaction_seconds=15) as connections:
        yield connections


async def ask(connections: ArchiveConnections) -> list[Any]:
    async with connections.transaction() as connection:
        return await (await connection.execute("SELECT 'here'")).fetchall()


async def test_whoever_waits_for_a_server_is_served_when_it_is_back(
    database_url: str, proxy_to: Callable[[str], Any]
) -> None:
    proxy, through = proxy_to(database_url)
    async with connections_to(through) as connections:
        assert await ask(connections) == [("here",)]
        proxy.cut()
        with pytest.raises(ArchiveUnavailableError):
            await ask(connections)
        asking = asyncio.create_task(ask(connections))
        # The pool has tried and given up.
        while proxy.refused < 2 and not asking.done():  # noqa: ASYNC110  # a thread counts
            await asyncio.sleep(0.01)
        assert not asking.done()
        proxy.mend()
        assert await asking == [("here",)]


async def test_a_server_that_lets_nobody_in_is_quoted(database_url: str) -> None:
    nobody = psycopg.conninfo.make_conninfo(database_url, user="nobody_here")
    async with connections_to(nobody) as connections:
        with pytest.raises(ArchiveUnavailableError, match=r'role "nobody_here" does not exist.*check DATABASE_URL'):
            await ask(connections)


async def test_a_pool_that_is_all_in_use_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_bridge.archive.connection._TRIES", 2)
    async with ArchiveConnections(database_url, schema="public", size=1, transaction_seconds=15) as connections:
        async with connections.transaction():
            with pytest.raises(ArchiveUnavailableError, match="no connection was free"):
                await ask(connections)
        assert await ask(connections) == [("here",)]


async def test_what_the_database_sets_for_itself_changes_nothing(database_url: str) -> None:
    others = {"DateStyle": "German", "client_encoding": "LATIN1", "default_transaction_isolation": "serializable"}
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for name, value in others.items():
            names = map(sql.Identifier, (connection.info.dbname, name, value))
            await connection.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(*names))
    async with connections_to(database_url) as connections:
        async with connections.transaction() as connection:
            cursor = await connection.execute(
                "SELECT current_setting('transaction_isolation'), extract(century FROM now()), now(), 'ü 🎧'"
            )
            [(isolation, century, now, text)] = await cursor.fetchall()
        assert (isolation, century, text) == ("read committed", 21, "ü 🎧")
        async with connections.plain() as connection:
            assert await (await connection.execute("SELECT now() >= %s", [now])).fetchall() == [(True,)]
            assert connection.info.encoding == "utf-8"
