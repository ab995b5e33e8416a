from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from session_bridge.recorder import CallRecorder, FinalizedBy, request_drain, withdraw_drain

READY = "session-bridge:ready"


@pytest.fixture(autouse=True)
def environment(redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path / "spool"))


async def due_in(client: Any, sid: str = "CA1") -> float:
    return float(await client.zscore(READY, sid)) / 1000 - time.time()


async def test_a_block_that_ends_asks_for_the_drain_at_once(redis_client: Any) -> None:
    async with redis_client.pubsub() as wake:
        await wake.subscribe("session-bridge:wake")
        await wake.get_message(timeout=5)
        async with CallRecorder("CA1") as call:
            call.record_message("user", "bye")
        assert (await wake.get_message(timeout=5))["type"] == "message"
    stored = await redis_client.hgetall("session:CA1")
    assert (stored["status"], stored["finalized_by"], stored["finalize_reason"]) == ("completed", "stop", "ended")
    assert stored["ended_at"] >= stored["started_at"]
    assert -5 < await due_in(redis_client) <= 0
    assert await redis_client.ttl("session:CA1") == -1


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError, "exception: ValueError"), (asyncio.CancelledError, "cancelled")]
)
async def test_a_block_that_breaks_asks_with_grace(redis_client: Any, error: type[BaseException], reason: str) -> None:
    async def conversation() -> None:
        async with CallRecorder("CA1") as call:
            call.record_message("user", "are you")
            raise error("the caller's own words")

    with pytest.raises(error):
        await conversation()
    stored = await redis_client.hgetall("session:CA1")
    assert (stored["finalized_by"], stored["finalize_reason"]) == ("disconnect", reason)
    assert stored["status"] == "in_progress"
    assert "ended_at" not in stored
    assert 10 < await due_in(redis_client) <= 15
    assert any(name.startswith("message:") for name in stored)


async def test_cancelling_the_whole_loop_still_writes_and_asks(redis_server: Any) -> None:
    def process() -> None:
        async def conversation() -> None:
            async with CallRecorder("CA1", redis=redis_server.url) as call:
                call.record_message("user", "last words")
                await asyncio.sleep(60)

        async def main() -> None:
            talk = asyncio.create_task(conversation())
            await asyncio.sleep(0)
            assert not talk.done()

        asyncio.run(main())

    await asyncio.to_thread(process)
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True) as client:
        stored = await client.hgetall("session:CA1")
        assert any(name.startswith("message:") for name in stored)
        assert stored["finalize_reason"] == "cancelled"
        assert 10 < await due_in(client) <= 15


async def test_a_final_status_that_was_set_stays(redis_client: Any) -> None:
    async with CallRecorder("CA1", status="ringing") as call:
        call.update_status("failed", end_reason="error", error_message="boom", ended_at="2026-01-01T00:00:00Z")
    stored = await redis_client.hgetall("session:CA1")
    assert (stored["status"], stored["end_reason"], stored["ended_at"]) == ("failed", "error", "2026-01-01T00:00:00Z")


async def test_the_end_is_asked_for_once(redis_client: Any) -> None:
    async with CallRecorder("CA1", grace_seconds=100) as call:
        assert await call.disconnected(reason="socket closed")
        assert await call.end()
    assert 90 < await due_in(redis_client) <= 100
    assert await redis_client.hget("session:CA1", "finalize_reason") == "socket closed"
    call.record_message("user", "a straggler")
    assert await call.flush(5)
    assert any(name.startswith("message:") for name in await redis_client.hkeys("session:CA1"))


async def test_a_resumed_call_takes_the_request_back(redis_client: Any) -> None:
    call = CallRecorder("CA1")
    call.record_message("user", "hello")
    await call.disconnected()
    began = await redis_client.hget("session:CA1", "started_at")
    assert await redis_client.zscore(READY, "CA1") is not None
    async with await CallRecorder("CA1", started_at="2030-01-01T00:00:00Z", agent_id="a2").resume() as resumed:
        assert await redis_client.zscore(READY, "CA1") is None
        assert await redis_client.ttl("session:CA1") > 0
        resumed.record_message("user", "I am back")
        assert await resumed.flush(5)
        stored = await redis_client.hgetall("session:CA1")
        assert stored["started_at"] == began
        assert stored["agent_id"] == "a2"
        assert stored["resumed_at"]
        assert sum(name.startswith("message:") for name in stored) == 2
    assert await redis_client.zscore(READY, "CA1") is not None


async def test_resuming_a_call_that_was_released_does_not_begin_another(redis_client: Any) -> None:
    call = await CallRecorder("CA1").resume()
    call.record_message("user", "still here")
    assert await call.flush(5)
    assert "started_at" not in await redis_client.hkeys("session:CA1")
    assert await redis_client.zscore("session-bridge:opened", "CA1") is not None
    await call.end()


async def test_disconnect_and_resume_in_one_flush_end_as_they_were_told(redis_client: Any) -> None:
    first = CallRecorder("CA1", flush_interval=10)
    ending = asyncio.create_task(first.disconnected())
    await asyncio.sleep(0)
    second = await CallRecorder("CA1", flush_interval=10).resume()
    assert await ending
    assert await redis_client.zscore(READY, "CA1") is None
    await second.end()
    assert await redis_client.zscore(READY, "CA1") is not None


async def test_two_recorders_write_one_call_without_losing_anything(redis_server: Any, redis_client: Any) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url) as other:
        first, second = CallRecorder("CA1"), CallRecorder("CA1", redis=other)
        for turn in range(200):
            first.record_message("user", "hi", turn_number=turn)
            second.record_message("assistant", "hello", turn_number=turn)
        assert await first.flush(5)
        assert await second.flush(5)
        assert sum(name.startswith("message:") for name in await redis_client.hkeys("session:CA1")) == 400
        await asyncio.gather(first.end(), second.end())


async def test_a_request_holds_the_hash_wakes_the_workers_and_carries_facts(redis_client: Any) -> None:
    await redis_client.hset("session:CA1", "provider", "twilio")
    await redis_client.expire("session:CA1", 100)
    async with redis_client.pubsub() as wake:
        await wake.subscribe("session-bridge:wake")
        await wake.get_message(timeout=5)
        await request_drain(
            redis_client, "CA1", reason="completed webhook", by=FinalizedBy.WEBHOOK, status="completed", outcome=None,
            metadata={"price": "0.01"},
        )  # fmt: skip
        assert (await wake.get_message(timeout=5))["type"] == "message"
    assert await redis_client.hgetall("session:CA1") == {
        "provider": "twilio",
        "finalize_reason": "completed webhook",
        "finalized_by": "webhook",
        "status": "completed",
        "metadata": '{"price":"0.01"}',
    }
    assert await redis_client.ttl("session:CA1") == -1
    assert -5 < await due_in(redis_client) <= 0


async def test_an_earlier_request_stays_and_a_lease_gives_way(redis_client: Any) -> None:
    now = time.time() * 1000
    await redis_client.zadd(READY, {"early": now - 5000, "leased": now + 30_000})
    await request_drain(redis_client, "early", grace=15)
    await request_drain(redis_client, "leased")
    assert await redis_client.zscore(READY, "early") == pytest.approx(now - 5000)
    assert await due_in(redis_client, "leased") <= 0


async def test_a_request_can_be_withdrawn(redis_client: Any) -> None:
    await request_drain(redis_client, "CA1", grace=15)
    assert await withdraw_drain(redis_client, "CA1") is True
    assert await withdraw_drain(redis_client, "CA1") is False
    assert await redis_client.zcard(READY) == 0


async def test_a_request_that_cannot_reach_redis_raises(redis_server: Any, redis_client: Any) -> None:
    redis_server.stop()
    with pytest.raises(redis.ConnectionError):
        await request_drain(redis_client, "CA1")
    with pytest.raises(ValueError, match="call SID"):
        await request_drain(redis_client, "")
