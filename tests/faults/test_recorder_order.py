# ruff: noqa: ASYNC110, ASYNC240  # these tests wait for what servers do, and look at what is on disk
"""An event that was recorded again under its id is never taken back to what it was, whatever Redis goes through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from session_bridge.embedded import EmbeddedValkey
from session_bridge.recorder import CallRecorder


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path / "spool"))
    return tmp_path / "spool"


async def flushed(call: CallRecorder) -> None:
    async with asyncio.timeout(20):
        while not await call.flush(5):
            await asyncio.sleep(0.1)


def said(client: Any) -> str:
    content: str = json.loads(client.hget("session:CA1", "message:one"))["content"]
    return content


async def test_what_came_from_the_spool_is_not_taken_back_by_what_was_acknowledged_before_it(
    deployment: Any, mortal_valkey: EmbeddedValkey, spool: Path
) -> None:
    """After a crash the newest acknowledged entries are written again: all of them, also those of the spool."""
    with deployment.redis.from_url(mortal_valkey.url, decode_responses=True) as client:
        call = CallRecorder("CA1", redis=mortal_valkey.url)
        call.record_message("user", "first", event_id="one")
        await flushed(call)
        await asyncio.to_thread(mortal_valkey.kill)
        call.record_message("user", "second", event_id="one")
        assert not await call.disconnected()
        assert list(spool.rglob("*.jsonl")), "it does not wait on disk"
        await asyncio.to_thread(mortal_valkey.start)
        await flushed(call)
        assert said(client) == "second"

        other = CallRecorder("CA2", redis=mortal_valkey.url)
        await asyncio.to_thread(mortal_valkey.kill)
        other.record_message("user", "hello")
        assert not await other.flush(0.5)
        await asyncio.to_thread(mortal_valkey.start)
        await flushed(other)
        assert said(client) == "second"


async def test_what_the_network_held_back_comes_too_late(deployment: Any, proxy_to: Callable[[str], Any]) -> None:
    """A recorder that gave up waiting has written anew; the first attempt, when it arrives at last, changes nothing."""
    proxy, through = proxy_to(deployment.redis_url)
    call = CallRecorder("CA1", redis=through)
    held = proxy.hold("first")
    call.record_message("user", "first", event_id="one")
    await asyncio.to_thread(held.wait)
    await asyncio.sleep(5.5)  # longer than an attempt may take
    call.record_message("user", "second", event_id="one")
    await flushed(call)
    assert said(deployment.redis) == "second"
    held.let_go()
    await asyncio.sleep(0.5)
    assert said(deployment.redis) == "second"
    await call.end()
