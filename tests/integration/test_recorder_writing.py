from __future__ import annotations

import asyncio
import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from deployments import eventually
from session_bridge.contract.times import parse_time
from session_bridge.recorder import CallRecorder, Keys


@pytest.fixture(autouse=True)
def environment(redis_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path / "spool"))


async def events(client: Any, sid: str, family: str) -> dict[str, dict[str, Any]]:
    stored: dict[str, str] = await client.hgetall(f"session:{sid}")
    return {name: json.loads(value) for name, value in stored.items() if name.startswith(f"{family}:")}


async def test_a_call_begins_with_its_state_and_enters_the_books(redis_client: Any) -> None:
    before = datetime.now(UTC)
    async with CallRecorder("CA1", provider="twilio", tenant_id=None, metadata={"a": [1]}) as call:
        assert await call.flush(5)
        stored = await redis_client.hgetall("session:CA1")
        assert stored["provider"] == "twilio"
        assert stored["status"] == "in_progress"
        assert stored["metadata"] == '{"a":[1]}'
        assert "tenant_id" not in stored
        assert before <= parse_time(stored["started_at"]) <= parse_time(stored["last_activity_at"])
        assert 3590 < await redis_client.ttl("session:CA1") <= 3600
        assert await redis_client.zscore("session-bridge:opened", "CA1") >= before.timestamp() * 1000 - 1


async def test_every_family_is_written_with_what_it_carries(redis_client: Any) -> None:
    call = CallRecorder("CA1")
    written = {
        "message": call.record_message("user", "zażółć \x00 \ud800", turn_number=1, own_field="kept", model=None),
        "transition": call.record_transition("booking", from_node_id="greeting", reason="asked"),
        "metric": call.record_metric("llm_ttfb", 0.234, unit="s"),
        "rag": call.record_rag_retrieval("opening hours", chunks=[{"chunk_id": "7", "score": 0.5}], top_k=1),
        "extraction": call.record_variable_extraction(["name"], {"name": "Ada"}, success=True),
        "interruption": call.record_user_interruption(3, node_id="booking"),
        "tool": call.record_tool_call("lookup", arguments={"id": 1}, output="not json", is_error=False),
        "participant": call.record_participant("caller", joined_at=datetime(2026, 1, 1, tzinfo=UTC)),
        "cost": call.record_cost("llm", usage=120, unit="tokens"),
    }
    assert await call.flush(5)
    expected: dict[str, dict[str, Any]] = {
        "message": {
            "role": "user", "content": "zażółć \x00 \ud800", "turn_number": 1, "own_field": "kept",
        },
        "transition": {"to_node_id": "booking", "from_node_id": "greeting", "reason": "asked"},
        "metric": {"metric_type": "llm_ttfb", "value": 0.234, "unit": "s"},
        "rag": {"query_text": "opening hours", "chunks": [{"chunk_id": "7", "score": 0.5}], "top_k": 1},
        "extraction": {"variables_requested": ["name"], "variables_extracted": {"name": "Ada"}, "success": True},
        "interruption": {"interrupted_at_turn": 3, "node_id": "booking"},
        "tool": {"name": "lookup", "arguments": {"id": 1}, "output": "not json", "is_error": False},
        "participant": {"identity": "caller", "joined_at": "2026-01-01T00:00:00+00:00"},
        "cost": {"service": "llm", "usage": 120, "unit": "tokens"},
    }  # fmt: skip
    for family, event_id in written.items():
        ((name, event),) = (await events(redis_client, "CA1", family)).items()
        assert name == f"{family}:{event_id}"
        parse_time(event.pop("timestamp"))
        assert event == expected[family]
    await call.end()


async def test_ids_and_times_may_be_given_and_the_same_id_replaces(redis_client: Any) -> None:
    call = CallRecorder("CA1")
    assert call.record_message("user", "hel", event_id="m1", timestamp="2026-01-01T00:00:00Z") == "m1"
    call.record_message("user", "hello", event_id="m1", timestamp=1767225600)
    odd = call.record_message("user", "odd", event_id="ünïcode id")
    assert await call.flush(5)
    messages = await events(redis_client, "CA1", "message")
    assert messages["message:m1"] == {"role": "user", "content": "hello", "timestamp": 1767225600}
    assert set(messages) == {"message:m1", f"message:{odd}"}
    await call.end()


async def test_what_is_stored_is_what_it_was_at_the_call(redis_client: Any) -> None:
    call = CallRecorder("CA1")
    arguments = {"items": [1]}
    event_id = call.record_tool_call("order", arguments=arguments)
    call.set(collected_data=arguments)
    arguments["items"].append(2)
    arguments.clear()
    assert await call.flush(5)
    assert (await events(redis_client, "CA1", "tool"))[f"tool:{event_id}"]["arguments"] == {"items": [1]}
    assert await redis_client.hget("session:CA1", "collected_data") == '{"items":[1]}'
    await call.end()


async def test_values_nobody_can_serialise_never_raise_into_the_call(redis_client: Any) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    call = CallRecorder("CA1")
    call.record_tool_call("t", arguments=Broken(), output={("a",): {object()}}, extra=float("nan"))
    call.set(**{"odd \ud800 name": Broken(), "score": float("inf")})
    call.update_status("in_progress", error_message=None)
    assert await call.flush(5)
    (event,) = (await events(redis_client, "CA1", "tool")).values()
    assert event["arguments"] == "<Broken that cannot be shown>"
    assert event["extra"] == "nan"
    assert await redis_client.hget("session:CA1", "score") == "inf"
    await call.end()


async def test_a_recording_is_state_and_one_event_however_often_it_is_told(redis_client: Any) -> None:
    call = CallRecorder("CA1")
    first = call.update_recording_info(recording_sid="RE1", channels=2)
    assert call.update_recording_info(recording_url="https://x/RE1.wav") == first
    assert call.update_recording_info(recording_sid="RE1", duration_seconds=12.5, status="completed") == first
    assert call.update_recording_info(recording_sid="RE2") == "RE2"
    assert await call.flush(5)
    stored = await redis_client.hgetall("session:CA1")
    assert stored["recording_sid"] == "RE2"
    assert stored["recording_enabled"] == "true"
    assert stored["recording_duration_seconds"] == "12.5"
    recordings = await events(redis_client, "CA1", "recording")
    assert set(recordings) == {"recording:RE1", "recording:RE2"}
    assert recordings["recording:RE1"]["recording_url"] == "https://x/RE1.wav"
    assert recordings["recording:RE1"]["channels"] == 2
    assert recordings["recording:RE1"]["duration_seconds"] == 12.5
    await call.end()


async def test_a_new_recorder_takes_nothing_back_from_what_another_writer_began(
    redis_client: Any,
) -> None:
    await redis_client.hset("session:CA1", mapping={"started_at": "1767225600", "status": "Ringing"})
    await redis_client.hset("session:CA2", "status", "completed")
    for sid in ("CA1", "CA2"):
        assert await CallRecorder(sid).flush(5)
        call = CallRecorder(sid)
        call.heartbeat()
        assert await call.flush(5)
    assert await redis_client.hget("session:CA1", "started_at") == "1767225600"
    assert await redis_client.hget("session:CA1", "status") == "in_progress"
    assert await redis_client.hget("session:CA2", "status") == "completed"


@pytest.mark.parametrize("decode_responses", [True, False])
async def test_a_callers_own_client_serves_and_stays_open(redis_server: Any, decode_responses: bool) -> None:
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=decode_responses) as client:
        async with CallRecorder("CA ż1", redis=client) as call:
            call.record_message("user", "hi")
            assert await call.flush(5)
        assert await client.zscore("session-bridge:ready", "CA ż1") is not None
        assert await client.hlen("session:CA ż1") > 4


async def test_one_flush_is_one_round_trip_for_all_calls(redis_server: Any) -> None:
    trips = 0

    class Counting(redis.asyncio.Connection):
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            nonlocal trips
            trips += 1
            await super().send_packed_command(command, check_health)

    pool = redis.asyncio.ConnectionPool(connection_class=Counting, host="127.0.0.1", port=redis_server.port)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        await client.ping()
        calls = [CallRecorder(f"CA{number}", redis=client) for number in range(50)]
        before = trips
        for call in calls:
            for turn in range(40):
                call.record_message("user", "hi", turn_number=turn)
        assert await calls[0].flush(5)
        assert trips - before == 1
        assert await client.hlen("session:CA49") == 43  # type: ignore[misc]


async def test_a_thousand_calls_in_one_process_are_all_written(redis_client: Any) -> None:
    calls = [CallRecorder(f"CA{number}") for number in range(1000)]
    for turn in range(10):
        for call in calls:
            call.record_message("user", f"{call.call_sid} says {turn}", turn_number=turn)
        await asyncio.sleep(0.01)
    assert await calls[0].flush(20)
    for call in calls[::50]:
        spoken = sorted((await events(redis_client, call.call_sid, "message")).items())
        assert [event["content"] for _, event in spoken] == [f"{call.call_sid} says {turn}" for turn in range(10)]
    assert await redis_client.dbsize() == 1001
    assert all(await asyncio.gather(*(call.end() for call in calls)))
    assert await redis_client.zcard("session-bridge:ready") == 1000


async def test_a_silent_call_says_that_it_lives(redis_client: Any) -> None:
    call = CallRecorder("CA1", heartbeat_seconds=0.1, ttl_seconds=100)
    call.record_message("user", "hi")
    assert await call.flush(5)
    first = await redis_client.hget("session:CA1", "last_activity_at")
    await redis_client.expire("session:CA1", 5)

    async def said_more() -> bool:
        return bool(await redis_client.hget("session:CA1", "last_activity_at") > first)

    await eventually(said_more)
    assert await redis_client.ttl("session:CA1") > 90
    await call.end()
    ended = await redis_client.hget("session:CA1", "last_activity_at")
    await asyncio.sleep(0.3)
    assert await redis_client.hget("session:CA1", "last_activity_at") == ended


async def test_two_deployments_on_one_redis_never_meet(redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_BRIDGE_KEY_PREFIX", "staging:")
    monkeypatch.setenv("SESSION_BRIDGE_NAMESPACE", "staging-bridge")
    async with CallRecorder("CA1"), CallRecorder("CA2", keys=Keys()):
        pass
    assert set(await redis_client.keys()) == {
        "staging:CA1", "staging-bridge:opened", "staging-bridge:ready",
        "session:CA2", "session-bridge:opened", "session-bridge:ready",
    }  # fmt: skip


async def test_a_thousand_fields_and_a_large_one_go_through(redis_client: Any) -> None:
    call = CallRecorder("CA1", buffer_events=100_000)
    for number in range(5000):
        call.record_metric("stt_delay", number)
    for _ in range(12):
        call.record_tool_call("read", output="x" * 1_000_000)
    assert await call.flush(20)
    assert len(await events(redis_client, "CA1", "metric")) == 5000
    assert len(await events(redis_client, "CA1", "tool")) == 12
    await call.end()


async def test_settings_that_cannot_work_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for sid in ("", "x" * 256, "a\x00b"):
        with pytest.raises(ValueError, match="call SID"):
            CallRecorder(sid)
    for ttl in (0, 0.5, 90.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="TTL"):
            CallRecorder("CA1", ttl_seconds=ttl)  # type: ignore[arg-type]  # as untyped code gives it
    for grace in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="grace"):
            CallRecorder("CA1", grace_seconds=grace)
    for endless in ("inf", "1e400", "nan"):
        monkeypatch.setenv("SESSION_BRIDGE_TTL_SECONDS", endless)
        with pytest.raises(ValueError, match="TTL"):
            CallRecorder("CA1")
    monkeypatch.setenv("SESSION_BRIDGE_TTL_SECONDS", "soon")
    with pytest.raises(ValueError, match="SESSION_BRIDGE_TTL_SECONDS is not a number"):
        CallRecorder("CA1")
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.delenv("SESSION_BRIDGE_TTL_SECONDS")
    with pytest.raises(ValueError, match="REDIS_URL"):
        CallRecorder("CA1")


async def test_a_ttl_of_whole_seconds_may_be_a_float(redis_client: Any) -> None:
    call = CallRecorder("CA1", ttl_seconds=90.0)  # type: ignore[arg-type]  # as untyped code gives it
    call.record_message("user", "hi")
    assert await call.flush(5)
    assert 80 < await redis_client.ttl("session:CA1") <= 90
    await call.end()


def test_outside_an_event_loop_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="inside the event loop"):
        CallRecorder("CA1")


async def test_a_recorder_that_never_records_writes_nothing(redis_client: Any) -> None:
    idle = CallRecorder("idle", heartbeat_seconds=0.05)
    busy = CallRecorder("busy", heartbeat_seconds=0.05)
    busy.heartbeat()
    assert await busy.flush(5)
    await asyncio.sleep(0.2)
    assert await redis_client.exists(f"session:{idle.call_sid}") == 0
    await busy.end()


async def test_waiting_for_entries_that_are_on_their_way_leaves_the_loop_free(redis_server: Any) -> None:
    on_the_way, go_on = asyncio.Event(), asyncio.Event()

    class Held(redis.asyncio.Connection):
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            if b"EXPIRE" in b"".join(command):
                on_the_way.set()
                await go_on.wait()
            await super().send_packed_command(command, check_health)

    pool = redis.asyncio.ConnectionPool(connection_class=Held, host="127.0.0.1", port=redis_server.port)
    async with redis.asyncio.Redis.from_pool(pool) as client:
        call = CallRecorder("CA1", redis=client)
        call.record_message("user", "hi")
        await on_the_way.wait()
        flushed = asyncio.create_task(call.flush(5))
        await asyncio.sleep(0)
        began = time.monotonic()
        go_on.set()
        assert await flushed
        await asyncio.sleep(0.2)
        assert time.monotonic() - began < 5
        await call.end()
