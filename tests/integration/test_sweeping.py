"""A round through all keys: each sweep goes a part of the way, however slow the servers are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from session_bridge.contract import ids
from session_bridge.live.scan import Page
from session_bridge.sweep import sweeper

KEYS = 8000


@pytest.fixture
async def slow(bridge_with: Callable[..., Awaitable[Any]]) -> Any:
    """A bridge that sweeps once an hour, beside many keys that are none of its own."""
    bridge = await bridge_with(sweep_seconds=3600, ttl_seconds=7200)
    for first in range(0, KEYS, 1000):
        await bridge.redis.mset({f"other:{number}": "" for number in range(first, first + 1000)})
    return bridge


async def cursor(bridge: Any) -> int:
    return int(await bridge.redis.hget(bridge.bridge.keys.sweep, "cursor") or 0)


async def test_a_sweep_that_is_ended_from_outside_has_gone_its_part_of_the_way(
    slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, stuck, begun_at = slow.bridge.sweeper._scan, asyncio.Event(), []
    page = scan.page

    async def third_page_hangs(place: int) -> Page:
        begun_at.append(place)
        if len(begun_at) == 3:
            stuck.set()
            await asyncio.Event().wait()
        found: Page = await page(place)
        return found

    monkeypatch.setattr(scan, "page", third_page_hangs)
    sweeping = asyncio.create_task(slow.bridge.sweeper.sweep(limit=100, keys=KEYS))
    await stuck.wait()
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert await cursor(slow) == begun_at[2] != 0
    report = await slow.bridge.sweeper.sweep(limit=100, keys=2 * KEYS)
    assert begun_at[3] == begun_at[2]
    assert report.round_complete
    assert await cursor(slow) == 0


async def test_a_sweep_ends_long_before_its_job_would_be_cancelled(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, pages = slow.bridge.sweeper._scan, 0
    page = scan.page

    async def slow_page(place: int) -> Page:
        nonlocal pages
        pages += 1
        found: Page = await page(place)
        return found

    monkeypatch.setattr(scan, "page", slow_page)
    monkeypatch.setattr(sweeper, "now", lambda: ids.now() + timedelta(seconds=6 * pages))
    rounds = 0
    while not (await slow.bridge.sweeper.sweep(limit=100, keys=KEYS)).round_complete:
        rounds += 1
        assert pages == 7 * rounds, "it goes on for 40 seconds, and no longer"
    assert rounds >= 1


async def test_who_asks_while_a_sweep_looks_has_asked(bridge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await bridge.redis.hset("session:CA1", mapping={"provider": "twilio", "status": "completed"})
    scan = bridge.bridge.sweeper._scan
    request = scan.request

    async def asked_before(reasons: dict[str, str]) -> None:
        assert reasons == {"CA1": "ended and not asked for"}
        await bridge.redis.zadd("session-bridge:ready", {"CA1": 1})
        await request(reasons)

    monkeypatch.setattr(scan, "request", asked_before)
    await bridge.bridge.sweeper.sweep(limit=100)
    assert await bridge.redis.zscore("session-bridge:ready", "CA1") == 1
    assert await bridge.redis.hkeys("session:CA1") == [b"provider", b"status"]
