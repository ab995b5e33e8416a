"""Many tables' copies as one command: all of them arrive or none does, whatever ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.copy import Copy, copy_all
from session_bridge.errors import ArchiveUnavailableError, DataRefusedError, TransactionTimeoutError

TABLES = """
CREATE TABLE early (number int);
CREATE TABLE slow (number int);
CREATE TABLE late (number int);
CREATE FUNCTION sleeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.8); RETURN NULL; END $$;
CREATE TRIGGER sleeps BEFORE INSERT ON slow FOR EACH STATEMENT EXECUTE FUNCTION sleeps();
"""
NAMES = ("early", "slow", "late")
ROWS = 700_000


def copy_to(table: str, text: bytes) -> Copy:
    return Copy(f"COPY {table} FROM STDIN".encode(), text)


# More than the network takes while nobody reads it.
EACH_MANY = [copy_to(name, b"1234567\n" * ROWS) for name in NAMES]


@pytest.fixture
def with_tables(database_url: str) -> str:
    """The address of a database with three tables; into one of them nothing is inserted soon."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLES)
    return database_url


@pytest.fixture
async def connections(with_tables: str) -> AsyncIterator[ArchiveConnections]:
    """One connection, with much time for a transaction."""
    async with ArchiveConnections(with_tables, schema="public", size=1, transaction_seconds=15) as opened:
        yield opened


async def copy(connections: ArchiveConnections, copies: list[Copy]) -> None:
    async with connections.transaction() as connection:
        await copy_all(connection, copies)


def counts(url: str) -> list[int]:
    with psycopg.connect(url, autocommit=True) as connection:
        found = [connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone() for name in NAMES]
    return [row[0] for row in found if row]


async def test_every_byte_arrives(connections: ArchiveConnections, with_tables: str) -> None:
    await copy(connections, EACH_MANY)
    assert counts(with_tables) == [ROWS] * 3


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_refused_row_is_told_and_leaves_nothing(
    connections: ArchiveConnections, with_tables: str, place: int
) -> None:
    copies = [*EACH_MANY]
    copies[place] = copy_to(NAMES[place], b"1\n" * 100_000 + b"none\n" + b"1\n" * ROWS)
    with pytest.raises(DataRefusedError, match="22P02"):
        await copy(connections, copies)
    assert counts(with_tables) == [0, 0, 0]
    await copy(connections, [copy_to("early", b"1\n"), copy_to("late", b"")])
    assert counts(with_tables) == [1, 0, 0]


async def test_a_table_that_is_not_there_is_the_servers_fault(connections: ArchiveConnections) -> None:
    with pytest.raises(ArchiveUnavailableError, match="42P01"):
        await copy(connections, [EACH_MANY[0], copy_to("nowhere", b"1\n")])


async def test_a_transaction_that_takes_too_long_is_told_as_that(with_tables: str) -> None:
    async with ArchiveConnections(with_tables, schema="public", size=1, transaction_seconds=1) as short:
        with pytest.raises(TransactionTimeoutError):
            await copy(short, [EACH_MANY[1], EACH_MANY[1]])
        await copy(short, [copy_to("late", b"1\n")])
    assert counts(with_tables) == [0, 0, 1]


async def test_a_network_that_is_cut_is_told_and_leaves_nothing(
    with_tables: str, proxy_to: Callable[[str], Any]
) -> None:
    proxy, through = proxy_to(with_tables)
    async with ArchiveConnections(through, schema="public", size=1, transaction_seconds=15) as connections:
        copying = asyncio.create_task(copy(connections, EACH_MANY))
        await asyncio.sleep(0.5)
        proxy.cut()
        with pytest.raises(ArchiveUnavailableError):
            await copying
        proxy.mend()
        await copy(connections, [copy_to("late", b"1\n")])
    assert counts(with_tables) == [0, 0, 1]


async def test_who_gives_up_in_the_middle_leaves_nothing(connections: ArchiveConnections, with_tables: str) -> None:
    copying = asyncio.create_task(copy(connections, EACH_MANY))
    await asyncio.sleep(0.5)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    await copy(connections, [copy_to("late", b"1\n")])
    assert counts(with_tables) == [0, 0, 1]
