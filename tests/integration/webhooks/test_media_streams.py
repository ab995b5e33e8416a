"""A provider's media stream becomes a recorded call, which ends with the stream's stop."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio

from session_bridge.errors import UnreadableCallbackError
from session_bridge.webhooks.streams import MediaStream

TWILIO = {
    "event": "start",
    "streamSid": "MZ1",
    "start": {"accountSid": "AC1", "callSid": "CA1", "streamSid": "MZ1", "customParameters": {"tenant": "t-1"}},
}
EXOTEL = {
    "event": "start",
    "stream_sid": "st-1",
    "start": {"stream_sid": "st-1", "call_sid": "e-1", "account_sid": "ex", "from": "+15550100", "to": "+15550101"},
}


async def texts(*messages: Any) -> AsyncIterator[str]:
    for message in messages:
        yield message if isinstance(message, str) else json.dumps(message)


@pytest.mark.parametrize(
    ("start", "sid", "expected"),
    [
        (TWILIO, "CA1", {"provider": "twilio", "stream_sid": "MZ1", "account_sid": "AC1"}),
        (
            EXOTEL,
            "e-1",
            {"provider": "exotel", "stream_sid": "st-1", "from_number": "+15550100", "to_number": "+15550101"},
        ),
    ],
)
async def test_a_stream_is_recorded_from_its_start_to_its_stop(
    redis_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, *, start: Any, sid: str, expected: dict[str, str]
) -> None:
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path))
    heard = []
    messages = texts({"event": "connected"}, "noise", start, {"event": "media"}, {"event": "stop"}, {"event": "media"})
    async with MediaStream(messages, redis=redis_url, agent_name="Ann") as stream:
        async for message in stream:
            heard.append(message["event"])
            stream.call.record_message("user", "hello")
    assert heard == ["media"]
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        written = await client.hgetall(f"session:{sid}")
        score = await client.zscore("session-bridge:ready", sid)
    assert {name: written[name] for name in expected} == expected
    assert (written["agent_name"], written["status"], written["finalized_by"]) == ("Ann", "completed", "stop")
    assert any(name.startswith("message:") for name in written)
    assert score is not None


async def test_a_stream_that_breaks_off_leaves_the_call_its_grace(
    redis_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path))
    async with MediaStream(texts(TWILIO, {"event": "media"}), redis=redis_url) as stream:
        assert [message["event"] async for message in stream] == ["media"]
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        assert await client.hget("session:CA1", "finalized_by") == "disconnect"


@pytest.mark.parametrize(
    "messages", [[], [{"event": "connected"}], [{"event": "start", "start": {"streamSid": "MZ1"}}]]
)
async def test_a_stream_without_a_call_is_no_call(redis_url: str, messages: list[Any]) -> None:
    with pytest.raises(UnreadableCallbackError):
        async with MediaStream(texts(*messages), redis=redis_url):
            pass
