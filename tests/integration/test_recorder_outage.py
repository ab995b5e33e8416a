# ruff: noqa: ASYNC240  # these tests wait for what other processes do, and read what they left
from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments import eventually
from session_bridge.recorder import CallRecorder

MakeCall = Callable[..., CallRecorder]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def make_call(redis_server: Any, spool: Path) -> AsyncIterator[MakeCall]:
    calls: list[CallRecorder] = []

    def make(sid: str = "CA1", **settings: Any) -> CallRecorder:
        settings = {"heartbeat_seconds": 1000.0, **settings}
        calls.append(CallRecorder(sid, redis=redis_server.url, spool_dir=spool, **settings))
        return calls[-1]

    yield make
    await asyncio.gather(*(call.end() for call in calls))


def spooled(spool: Path) -> list[dict[str, str]]:
    """What waits on disk, in the order in which it will be replayed."""
    return [json.loads(line) for path in sorted(spool.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]


async def turns(client: Any, sid: str = "CA1") -> list[int]:
    stored: dict[str, str] = await client.hgetall(f"session:{sid}")
    messages = sorted((name, json.loads(value)) for name, value in stored.items() if name.startswith("message:"))
    return [message["turn_number"] for _, message in messages]


def say(call: CallRecorder, numbers: range) -> None:
    for number in numbers:
        call.record_message("user", f"turn {number}", turn_number=number)


async def test_redis_killed_in_the_middle_of_a_call_loses_nothing(
    redis_server: Any, redis_client: Any, make_call: MakeCall
) -> None:
    call = make_call()
    say(call, range(100))
    assert await call.flush(5)
    say(call, range(100, 200))
    redis_server.stop()
    say(call, range(200, 300))
    assert await call.flush(0.3) is False
    call.set(agent_id="changed while away")
    redis_server.start()
    say(call, range(300, 400))
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(400))
    assert await redis_client.hget("session:CA1", "agent_id") == "changed while away"


async def test_redis_that_is_killed_again_and_again_loses_nothing(
    redis_server: Any, redis_client: Any, make_call: MakeCall
) -> None:
    call = make_call(buffer_events=50)
    said = 0
    for _ in range(5):
        for _ in range(20):
            say(call, range(said, said + 10))
            call.set(conversation_stage=said)
            said += 10
            await asyncio.sleep(0.005)
        redis_server.stop()
        say(call, range(said, said + 10))
        said += 10
        await asyncio.sleep(0.05)
        redis_server.start()
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(said))
    assert await redis_client.hget("session:CA1", "conversation_stage") == str(said - 20)


async def test_past_its_bound_the_oldest_goes_to_disk_and_comes_back_in_order(
    redis_server: Any, redis_client: Any, make_call: MakeCall, spool: Path
) -> None:
    redis_server.stop()
    call = make_call(buffer_events=100)
    for start in range(0, 1000, 50):
        say(call, range(start, start + 50))
        call.set(conversation_stage=start)
        await eventually(lambda: len(call._flusher._backlog.entries) <= 100)
    await eventually(lambda: len(spooled(spool)) > 800)
    on_disk = [json.loads(line["value"])["turn_number"] for line in spooled(spool) if line["kind"] == "event"]
    assert on_disk == list(range(len(on_disk)))
    assert oct(next(spool.iterdir()).stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-3:] for path in spool.rglob("*.jsonl")} == {"600"}
    redis_server.start()
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(1000))
    assert await redis_client.hget("session:CA1", "conversation_stage") == "950"
    await eventually(lambda: not list(spool.rglob("*.jsonl")))


async def test_the_exit_is_bounded_and_what_it_asks_for_is_done_later(
    redis_server: Any, redis_client: Any, make_call: MakeCall, spool: Path
) -> None:
    redis_server.stop()
    call = make_call()
    began = time.monotonic()
    async with call:
        say(call, range(10))
    assert time.monotonic() - began < 5
    assert [line["kind"] for line in spooled(spool)][-1] == "ask"
    assert len(call._flusher._backlog.entries) == 0
    began = time.monotonic()
    assert await make_call("CA2").end() is False
    assert time.monotonic() - began < 2  # by now it is known that Redis is away
    redis_server.start()
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(10))
    assert await redis_client.hget("session:CA1", "status") == "completed"
    assert await redis_client.zcard("session-bridge:ready") == 2
    assert await redis_client.ttl("session:CA1") == -1
    await eventually(lambda: not list(spool.rglob("*.jsonl")))


async def test_a_redis_that_accepts_and_never_answers_counts_as_away(spool: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        async with CallRecorder("CA1", redis=f"redis://127.0.0.1:{server.getsockname()[1]}", spool_dir=spool) as call:
            say(call, range(10))
        assert time.monotonic() - began < 5.5
        assert [line["kind"] for line in spooled(spool)].count("event") == 10


async def test_states_of_redis_count_as_away_and_refusals_of_one_call_do_not_stop_the_others(
    redis_client: Any, make_call: MakeCall, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await redis_client.set("session:bad", "a web login")
    good, bad = make_call("good"), make_call("bad")
    say(bad, range(3))
    say(good, range(3))
    assert await good.flush(5)
    assert await bad.flush(5) is False
    assert await turns(redis_client, "good") == [0, 1, 2]
    assert await redis_client.get("session:bad") == "a web login"
    (kept,) = spool.rglob("*.bad")
    lines = [json.loads(line) for line in kept.read_bytes().splitlines()]
    assert {line["call_sid"] for line in lines} == {"bad"}
    assert [line["kind"] for line in lines].count("event") == 3
    assert "WRONGTYPE" in caplog.text
    assert "bad," not in caplog.text.replace(str(kept), "")


@pytest.mark.parametrize("state", ["OOM", "READONLY"])
async def test_a_redis_that_is_full_or_read_only_is_waited_for(
    redis_client: Any, make_call: MakeCall, state: str
) -> None:
    call = make_call()
    say(call, range(5))
    assert await call.flush(5)
    if state == "OOM":
        await redis_client.config_set("maxmemory", 1)
    else:
        await redis_client.replicaof("127.0.0.1", 1)
    say(call, range(5, 10))
    assert await call.flush(0.5) is False
    if state == "OOM":
        await redis_client.config_set("maxmemory", 0)
    else:
        await redis_client.replicaof("NO", "ONE")
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(10))


async def test_what_waited_does_not_overwrite_what_others_wrote_since(
    redis_server: Any, redis_client: Any, make_call: MakeCall
) -> None:
    call = make_call(agent_id="first")
    assert await call.flush(5)
    redis_server.stop()
    call.set(agent_id="stale", language="pl")
    say(call, range(1))
    assert await call.flush(0.2) is False
    later = time.time() + 1
    redis_server.start()
    # Another process goes on with the call before this one finds its way back.
    await redis_client.hset("session:CA1", mapping={"agent_id": "newest", "last_activity_at": str(later)})
    assert await call.flush(10)
    stored = await redis_client.hgetall("session:CA1")
    assert stored["agent_id"] == "newest"
    assert stored["language"] == "pl"
    assert stored["last_activity_at"] == str(later)
    assert await turns(redis_client) == [0]


async def test_without_a_disk_the_newest_is_kept_and_the_loss_is_said(
    redis_server: Any,
    redis_client: Any,
    make_call: MakeCall,
    spool: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool.write_text("a file where the folder should be")
    redis_server.stop()
    call = make_call(buffer_events=100)
    for start in range(0, 1000, 50):
        say(call, range(start, start + 50))
        await asyncio.sleep(0.01)
    await eventually(lambda: len(call._flusher._backlog.entries) <= 100)
    assert "the spool cannot be written" in caplog.text
    redis_server.start()
    assert await call.flush(10) is False  # truly: not everything has been acknowledged
    assert await turns(redis_client) == list(range(900, 1000))
    lost = [record.getMessage() for record in caplog.records if "entries are lost" in record.getMessage()]
    assert lost == ["901 recorded entries are lost: there was room neither in memory nor on disk"]
    assert caplog.text.count("the spool cannot be written") == 1


async def test_heartbeats_come_back_after_an_outage_in_silence(
    redis_server: Any, redis_client: Any, make_call: MakeCall
) -> None:
    call = make_call(heartbeat_seconds=0.1)
    call.heartbeat()
    assert await call.flush(5)
    redis_server.stop()
    await asyncio.sleep(0.5)
    redis_server.start()
    back = await redis_client.hget("session:CA1", "last_activity_at")

    async def said_more() -> bool:
        return bool(await redis_client.hget("session:CA1", "last_activity_at") > back)

    await eventually(said_more)
    assert await call.flush(5)


async def test_what_a_crash_took_back_after_acknowledging_it_is_written_again(
    redis_server: Any, redis_client: Any, make_call: MakeCall
) -> None:
    call = make_call(agent_id="a1")
    say(call, range(10))
    assert await call.flush(5)
    await redis_client.config_set("appendonly", "no")
    await redis_client.aclose()  # it connects again by itself, once the server is back
    say(call, range(10, 20))
    call.set(agent_id="a2")
    assert await call.flush(5)
    redis_server.stop()
    call.record_message("user", "during", turn_number=20)
    assert await call.flush(0.2) is False
    redis_server.start()
    assert await call.flush(10)
    assert await turns(redis_client) == list(range(21))
    assert await redis_client.hget("session:CA1", "agent_id") == "a2"
