"""What opens a call again that silence has closed, and what only joins it."""

from __future__ import annotations

import time
from typing import Any

import pytest

SID = "CA1"
OLD = {
    "provider": "twilio",
    "status": "in-progress",
    "last_activity_at": "2026-11-20T10:05:00Z",
    "message:1": {"role": "user", "content": "hello", "timestamp": "2026-11-20T10:04:00Z"},
}
NO_SIGNS = {
    "a recording's link": {"recording_url": "https://example.test/1", "recording_sid": "RE1"},
    "a recording": {"recording:RE1": {"recording_url": "https://example.test/1"}},
    "a price": {"cost:1": {"service": "telephony", "amount_cents": 3}},
    "an analysis": {"analysis": {"sentiment": "calm"}},
    "a measurement": {"metric:1": {"metric_type": "llm_ttfb", "value": 320}},
    "a field that nobody knows": {"price_unit": "USD"},
    "an old heartbeat": {"last_activity_at": "2026-11-20T10:04:30Z"},
    "an end": {"ended_at": "2026-11-20T10:06:00Z"},
}
SIGNS = {
    "a message": {"message:2": {"role": "user", "content": "I am back"}},
    "a heartbeat": {"last_activity_at": str(time.time())},
    "a status": {"status": "in-progress", "last_activity_at": str(time.time())},
}


@pytest.fixture
async def abandoned(bridge_with: Any) -> Any:
    """A bridge with a call that silence has closed."""
    bridge = await bridge_with(idle_seconds=600, abandon_seconds=3600)
    await bridge.write(SID, OLD)
    assert (await bridge.bridge.sweeper.sweep(limit=10)).found == {"abandoned": 1}
    await bridge.drain()
    assert (await bridge.call(SID))["status"] == "abandoned"
    return bridge


@pytest.mark.parametrize("late", NO_SIGNS)
async def test_late_data_joins_at_once_and_opens_nothing(abandoned: Any, late: str) -> None:
    await abandoned.write(SID, NO_SIGNS[late])
    report = await abandoned.bridge.sweeper.sweep(limit=10)
    assert (report.rescued, report.checkpoints) == (1, 0)
    await abandoned.drain()
    call = await abandoned.call(SID)
    assert (call["status"], call["end_reason"], call["generation"]) == ("abandoned", "abandoned", 1)
    assert call["drains"] == 2
    assert await abandoned.is_gone(SID)
    assert await abandoned.rows("SELECT state FROM call_sids") == [{"state": "archived"}]


@pytest.mark.parametrize("sign", SIGNS)
async def test_a_sign_of_life_opens_the_call_again(abandoned: Any, sign: str) -> None:
    await abandoned.write(SID, SIGNS[sign])
    assert (await abandoned.bridge.sweeper.sweep(limit=10)).rescued == 0
    await abandoned.redis.zadd("session-bridge:checkpoints", {SID: 0})
    await abandoned.bridge.loop.drain_once()
    call = await abandoned.call(SID)
    assert (call["status"], call["ended_at"], call["end_reason"]) == ("in_progress", None, None)
    assert call["finalize_reason"] is None
    assert await abandoned.redis.exists(abandoned.key(SID))


GIVEN_UP = {"finalize_reason": "abandoned", "finalized_by": "sweep"}


@pytest.mark.parametrize("news", ["nothing", "a message"])
async def test_a_writers_clock_that_runs_fast_keeps_no_silent_call_alive(bridge: Any, news: str) -> None:
    # Its last message seems to be a minute old, and was archived before the silence began.
    spoken = {"role": "user", "content": "hello", "timestamp": time.time() - 60}
    await bridge.write(SID, OLD | {"message:1": spoken})
    await bridge.redis.zadd("session-bridge:checkpoints", {SID: 0})
    await bridge.bridge.loop.drain_once()
    assert (await bridge.call(SID))["status"] == "in_progress"
    more = {"message:2": spoken} if news == "a message" else {}
    await bridge.ask(SID, GIVEN_UP | more)
    await bridge.drain()
    call = await bridge.call(SID)
    if more:
        assert (call["status"], call["finalize_reason"], call["ended_at"]) == ("in_progress", None, None)
        assert await bridge.redis.exists(bridge.key(SID))
    else:
        assert (call["status"], call["finalize_reason"]) == ("abandoned", "abandoned")
        assert await bridge.is_gone(SID)


async def test_late_data_does_not_change_why_a_call_was_finalized(bridge: Any) -> None:
    why = {"finalize_reason": "caller_hangup", "finalized_by": "webhook"}
    await bridge.ask(SID, OLD | why | {"status": "abandoned"})
    await bridge.drain()
    assert (await bridge.call(SID))["status"] == "abandoned"
    await bridge.write(SID, {"recording_url": "https://example.test/1"})
    assert (await bridge.bridge.sweeper.sweep(limit=10)).rescued == 1
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["recording_url"]) == ("abandoned", "https://example.test/1")
    assert {name: call[name] for name in why} == why
