"""How rows are written: many or a few, on the server's own connections or through a pooler, while its tables change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from deployments import call_fields
from session_bridge.archive import connection, writer
from session_bridge.drain import drainer
from session_bridge.errors import ArchiveUnavailableError
from session_bridge.live.snapshot import Claim, Queue

# So many are more than a few rows together.
CALLS = 35


def long_call(number: int) -> dict[str, str]:
    """A call of some 120 rows."""
    fields = call_fields(f"CA{number}") | {"started_at": "2026-11-20T10:00:00Z", "metadata": '{"a": 1.10}'}
    for place in range(60):
        at = f"2026-11-20T10:00:{place:02}.5Z"
        fields[f"message:{place}"] = json.dumps({"role": "user", "content": f'\\N "{place}"\n', "timestamp": at})
        fields[f"tool:{place}"] = json.dumps({"name": "t", "arguments": {"a": [place, None]}, "timestamp": at})
    chunks = [{"chunk_id": "1", "content": "said often", "score": 0.25}, {"chunk_id": "2", "content": f"only {number}"}]
    fields["rag:1"] = json.dumps({"query_text": "q", "chunks": chunks, "timestamp": 1_763_632_800})
    fields["cost:1"] = json.dumps({"service": "llm", "amount_cents": "1.250", "timestamp": 1_763_632_800})
    return fields


async def test_few_rows_and_many_make_the_same_archive(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    batch_of = writer.batch_of

    def noting(calls: Any) -> Any:
        batch = batch_of(calls)
        copied.append(bool(batch.copied))
        return batch

    monkeypatch.setattr(drainer, "batch_of", noting)
    for number in range(CALLS):
        await bridge.ask(f"CAalone{number}", long_call(number))
        await bridge.drain()
    assert copied == [False] * CALLS
    for number in range(CALLS):
        await bridge.ask(f"CAtogether{number}", long_call(number))
    copied.clear()
    live = bridge.bridge.live
    claims: list[Claim] = []
    while len(claims) < CALLS:
        claims += (await live.claim(Queue.READY, CALLS, 30)).taken
    await bridge.bridge.drainer.drain(claims)
    assert copied == [True]
    for number in range(CALLS):
        alone, together = await bridge.archived(f"CAalone{number}"), await bridge.archived(f"CAtogether{number}")
        assert alone == together
        assert len(alone["call_messages"]) == len(alone["call_tool_calls"]) == 60
    [[count]] = [row.values() for row in await bridge.rows("SELECT count(*) FROM rag_chunk_contents")]
    assert count == CALLS + 1


async def prepared_on(opened: Any) -> int:
    """How many statements are prepared on a connection on which one came three times."""
    async with opened.bridge.connections.transaction() as connection:
        for _ in range(3):
            await connection.execute("SELECT %s::int", [1])
        cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
        [count] = await cursor.fetchone()
        return int(count)


async def test_what_comes_again_and_again_is_prepared(bridge: Any) -> None:
    assert await prepared_on(bridge) > 0


async def limits_of_a_transaction(opened: Any, *names: str) -> list[str]:
    """What is set in a transaction of the archive's."""
    async with opened.bridge.connections.transaction() as connection:
        cursor = await connection.execute("SELECT current_setting(name) FROM unnest(%s::text[]) AS name", [list(names)])
        return [setting for (setting,) in await cursor.fetchall()]


async def test_no_transaction_outlives_half_a_lease(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout", "transaction_timeout")
    half, quarter = (
        f"{bridge.bridge.settings.lease_seconds / 2:g}s",
        f"{bridge.bridge.settings.lease_seconds * 250:g}ms",
    )
    async with bridge.bridge.connections.plain() as plain:
        version = plain.info.server_version
    if version >= 170000:
        assert await limits_of_a_transaction(bridge, *names) == [half, half, quarter, half]
    # A server before 17 knows no limit for a whole transaction, and learns of a dead worker from TCP alone.
    monkeypatch.setattr(connection, "_TRANSACTION_TIMEOUT_SINCE", version + 1)
    bridge.bridge.connections._begin = None
    tcp = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout")
    seconds = int(bridge.bridge.settings.lease_seconds / 2)
    said = [half, half, quarter] + [str(seconds)] * 2 + [f"{seconds}000"]
    assert await limits_of_a_transaction(bridge, *names[:3], *tcp) == said
    assert await bridge.rows("SELECT current_setting('tcp_user_timeout') AS now") == [{"now": "0"}]


async def test_drains_go_on_when_a_column_changes_under_prepared_statements(bridge: Any, database_url: str) -> None:
    async def drain(number: int) -> None:
        await bridge.ask(f"CA{number}", long_call(number))
        await asyncio.wait_for(bridge.drain(), 30)
        assert (await bridge.call(f"CA{number}"))["total_messages"] == 60

    for number in range(4):
        await drain(number)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("DROP VIEW active_calls_summary CASCADE")
        await owner.execute("ALTER TABLE call_sids ALTER COLUMN first_seen_at TYPE timestamptz(3)")
    await drain(4)  # what is looked up before a drain is not prepared
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE call_sids ALTER COLUMN ended_at TYPE timestamptz(3)")
    # Each connection finds out by itself, and the call is drained again on a new one.
    with pytest.raises(ArchiveUnavailableError, match="cached plan"):
        await drain(5)
    for number in range(5, 9):
        await drain(number)


async def test_behind_a_pooler_nothing_is_prepared_and_drains_go_on(
    bridge_with: Callable[..., Awaitable[Any]], pgbouncer: Any
) -> None:
    with pgbouncer("transaction") as address:
        opened = await bridge_with(database_url=address)
        assert await prepared_on(opened) == 0
        for number in range(8):
            await opened.ask(f"CA{number}", long_call(number))
        # Two at a time, so that transactions change their server connections.
        claims = (await opened.bridge.live.claim(Queue.READY, 8, 30)).taken
        await asyncio.gather(*[opened.bridge.drainer.drain([claim]) for claim in claims])
        for number in range(8):
            assert (await opened.call(f"CA{number}"))["total_messages"] == 60


async def test_a_drain_that_was_overtaken_with_the_very_same_rows_is_no_fault_of_the_call(
    bridge_with: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch, both_ways: None
) -> None:
    bridge = await bridge_with(concurrency=2)
    live, drains, write = bridge.bridge.live, bridge.bridge.drainer, writer.write
    await bridge.ask("CA1", long_call(1))
    await bridge.drain()
    late = {"message:late": json.dumps({"role": "user", "content": "late", "timestamp": "2026-11-20T10:02:00Z"})}
    await bridge.ask("CA1", late)
    first = (await live.claim(Queue.READY, 1, 30)).taken

    async def overtaken(*arguments: Any) -> set[str]:
        monkeypatch.setattr(drainer, "write", write)
        await bridge.ask("CA1", late)
        await drains.drain((await live.claim(Queue.READY, 1, 30)).taken)
        return await write(*arguments)

    monkeypatch.setattr(drainer, "write", overtaken)
    await drains.drain(first)
    assert (drains.counts.again, drains.counts.dead) == (1, 0)
    assert not await bridge.redis.exists("session-bridge:attempts")
    assert await bridge.is_gone("CA1")
    assert len((await bridge.archived("CA1"))["call_messages"]) == 61
    assert (await bridge.call("CA1"))["drains"] == 2
