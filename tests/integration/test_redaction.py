"""Redaction in a drain: nothing of what may not be stored is kept anywhere, and the release still compares."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import structlog
from psycopg import sql

CARD, SPACED = "4111111111111111", "4111 1111 1111 1111"
EVERYWHERE = {
    "provider": f"p {CARD}",
    "status": "completed",
    "started_at": "1763632800000",
    "from_number": "+15550100199",
    "summary": SPACED,
    "unknown": f"{CARD}",
    f"card {CARD}": "a name",
    "collected_data": {"card": int(CARD), "list": [SPACED]},
    "metadata": f'{{"broken": "{CARD}"',
    "analysis": {"summary": SPACED},
    "message:1": {"role": "user", "content": f"my card is {SPACED}"},
    "message:2": f"no JSON {CARD}",
    "message:3": {"role": "user", "content": f"nul \x00 {CARD}"},
    "rag:1": {"query_text": CARD, "chunks": [{"content": CARD}]},
    "tool:1": {"name": "pay", "arguments": {"n": CARD}, "output": f'{{"n": "{CARD}"}}'},
    "gesture:1": {"what": CARD},
    "finalize_reason": CARD,
    "bad id:1": CARD,
}


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as logs:
        yield logs


async def everything(bridge: Any) -> str:
    """Every row of every table, bytes as text."""
    tables = await bridge.rows(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    parts = []
    for table in tables:
        for row in await bridge.rows(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table["relname"]))):
            cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell for cell in row.values()]
            parts.append(json.dumps(cells, default=str, ensure_ascii=False))
    return "\n".join(parts)


async def test_no_card_number_is_left_anywhere(bridge_with: Callable[..., Awaitable[Any]], seen: list[Any]) -> None:
    bridge = await bridge_with(redact=("cards",), max_attempts=1, max_field_bytes=2048)
    big = json.dumps({"role": "user", "content": f"{CARD} {'x' * 5000}"})
    await bridge.ask("CA1", EVERYWHERE, **{"message:9": big})
    await bridge.drain()
    assert await bridge.is_gone("CA1")
    kept = await everything(bridge)
    assert CARD not in kept
    assert SPACED not in kept
    assert kept.count("[card]") > 12
    assert "+15550100199" in kept
    assert (await bridge.call("CA1"))["started_at"].year == 2025
    assert len(await bridge.rejects("CA1")) == 3
    assert CARD not in str(seen)
    # What came late is redacted too, and joins.
    await bridge.ask("CA1", {"message:4": {"role": "user", "content": f"again {CARD}"}})
    await bridge.drain()
    assert await bridge.is_gone("CA1")
    assert CARD not in await everything(bridge)
    assert "again [card]" in [row["content"] for row in await bridge.of("CA1", "call_messages")]


async def test_a_dead_session_is_redacted(bridge_with: Callable[..., Awaitable[Any]], seen: list[Any]) -> None:
    bridge = await bridge_with(redact=("cards",), max_attempts=1)
    refuse = "ALTER TABLE call_messages ADD CHECK (content <> 'poison')"
    async with bridge.bridge.connections.transaction() as connection:
        await connection.execute(refuse)
    await bridge.ask("CA1", EVERYWHERE, **{"message:8": {"role": "user", "content": "poison"}})
    await bridge.drain()
    assert await bridge.is_gone("CA1")
    assert len(await bridge.rows("SELECT 1 FROM dead_session_fields")) == len(EVERYWHERE) + 1
    kept = await everything(bridge)
    assert CARD not in kept
    assert SPACED not in kept
    assert CARD not in str(seen)


async def test_a_huge_session_is_redacted_and_released(bridge_with: Callable[..., Awaitable[Any]]) -> None:
    bridge = await bridge_with(redact=("cards", "emails", "phones"))
    many = {f"message:{n}": {"role": "user", "content": f"{n} {CARD} {'y' * 400}"} for n in range(4000)}
    await bridge.ask("CA1", many, provider="x")
    await bridge.drain()
    assert await bridge.is_gone("CA1")
    assert len(await bridge.of("CA1", "call_messages")) == 4000
    assert CARD not in await everything(bridge)


async def test_what_is_written_meanwhile_stays_and_is_redacted_in_its_turn(
    bridge_with: Callable[..., Awaitable[Any]],
) -> None:
    bridge = await bridge_with(redact=("cards",))
    await bridge.ask("CA1", {"provider": "x", "message:1": {"role": "user", "content": CARD}})
    release = bridge.bridge.live.release
    written: list[int] = []

    async def write_first(snapshots: Any) -> Any:
        if not written:
            written.append(1)
            await bridge.write("CA1", {"message:1": {"role": "user", "content": f"{CARD} and more"}})
        return await release(snapshots)

    bridge.bridge.live.release = write_first
    await bridge.drain()
    assert await bridge.is_gone("CA1")
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == ["[card] and more"]


async def test_a_redactor_that_fails_keeps_the_call_in_redis(
    bridge_with: Callable[..., Awaitable[Any]], seen: list[Any]
) -> None:
    module = types.ModuleType("failing_redactors")

    def fail(text: str) -> str:
        if "bomb" in text:
            raise RuntimeError(text)
        return text

    module.fail = fail  # type: ignore[attr-defined]
    sys.modules["failing_redactors"] = module
    bridge = await bridge_with(redact=("failing_redactors:fail",), max_attempts=1)
    await bridge.ask("CA1", {"provider": "x", "message:1": {"role": "user", "content": f"bomb {CARD}"}})
    await bridge.ask("CA2", {"provider": "x", "message:1": {"role": "user", "content": "fine"}})
    for _ in range(6):
        await bridge.bridge.loop.drain_once()
        await bridge.redis.zadd("session-bridge:ready", {"CA1": 0}, xx=True)
    assert await bridge.is_gone("CA2")
    assert await bridge.redis.hlen("session:CA1") == 2
    assert CARD not in await everything(bridge)
    assert CARD not in str(seen)
    assert "drain.redaction_failed" in {line["event"] for line in seen}
    # Mended, it is drained.
    module.fail = str  # type: ignore[attr-defined]
    mended = await bridge_with(redact=("failing_redactors:fail",))
    await mended.drain()
    assert await bridge.is_gone("CA1")
