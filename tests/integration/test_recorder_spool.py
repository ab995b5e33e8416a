# ruff: noqa: ASYNC110, ASYNC240  # these tests wait for what other processes do, and read what they left
from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deployments import eventually
from session_bridge.recorder import CallRecorder
from session_bridge.recorder.spool import Spool

DEAD = "redis://127.0.0.1:1/0"

RECORD = """
import asyncio, sys
from session_bridge.recorder import CallRecorder

async def main():
    url, spool, ending = sys.argv[1:]
    call = CallRecorder("CA1", redis=url, spool_dir=spool, agent_id="dead one", language="pl", buffer_events=20)
    for turn in range(50):
        call.record_message("user", f"turn {turn}", turn_number=turn)
    if ending == "disconnect":
        await call.disconnected(reason="went away")
    elif ending == "kill":
        await call.flush(1)
        print("spooled", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def start(url: str, spool: Path, ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", RECORD, url, spool, ending], stdout=subprocess.PIPE, text=True)


async def turns(client: Any, sid: str = "CA1") -> list[int]:
    stored: dict[str, str] = await client.hgetall(f"session:{sid}")
    return sorted(json.loads(value)["turn_number"] for name, value in stored.items() if name.startswith("message:"))


async def replay(redis_server: Any, spool: Path) -> None:
    """Be the next process that records something: it finds what the dead one left."""
    async with CallRecorder("next", redis=redis_server.url, spool_dir=spool) as call:
        call.record_message("user", "hi")
        await eventually(lambda: not list(spool.rglob("*.jsonl")))


def leave(redis_server: Any, spool: Path, ending: str) -> None:
    """Let a process record while Redis is away, and die."""
    redis_server.stop()
    with start(redis_server.url, spool, ending) as process:
        if ending == "kill":
            assert process.stdout is not None
            assert process.stdout.readline() == "spooled\n"
            process.send_signal(signal.SIGKILL)
        process.wait(20)
    redis_server.start()


async def test_what_a_killed_process_spooled_is_found_by_the_next(
    redis_server: Any, redis_client: Any, spool: Path
) -> None:
    await asyncio.to_thread(leave, redis_server, spool, "kill")
    left = [json.loads(line) for path in spool.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    saved = sorted(json.loads(line["value"])["turn_number"] for line in left if line["kind"] == "event")
    assert len(saved) >= 30
    await replay(redis_server, spool)
    assert await turns(redis_client) == saved
    stored = await redis_client.hgetall("session:CA1")
    assert stored["agent_id"] == "dead one"
    assert stored["started_at"] <= stored["last_activity_at"]
    assert 0 < await redis_client.ttl("session:CA1") <= 3600
    assert await redis_client.zscore("session-bridge:opened", "CA1") is not None
    # The folder goes a moment after the last file in it.
    async with asyncio.timeout(10):
        while [path for path in next(spool.iterdir()).iterdir() if path.is_dir()]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ending", ["disconnect", "no goodbye"])
async def test_a_process_that_ends_while_redis_is_away_leaves_everything_on_disk(
    redis_server: Any, redis_client: Any, spool: Path, ending: str
) -> None:
    await asyncio.to_thread(leave, redis_server, spool, ending)
    await replay(redis_server, spool)
    assert await turns(redis_client) == list(range(50))
    asked = await redis_client.zscore("session-bridge:ready", "CA1")
    if ending == "disconnect":
        assert asked is not None
        assert await redis_client.hget("session:CA1", "finalize_reason") == "went away"
        assert await redis_client.ttl("session:CA1") == -1
    else:
        assert asked is None


@pytest.mark.parametrize("form", ["iso", "zone", "seconds", "milliseconds", "unreadable"])
async def test_a_dead_process_neither_overwrites_nor_ends_what_goes_on(
    redis_server: Any, redis_client: Any, spool: Path, form: str
) -> None:
    await asyncio.to_thread(leave, redis_server, spool, "disconnect")
    now = time.time() + 5
    written = {
        "iso": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "zone": time.strftime("%Y-%m-%d %H:%M:%S+02:30", time.gmtime(now + 9000)),
        "seconds": str(now),
        "milliseconds": str(int(now * 1000)),
        "unreadable": "just now",
    }[form]
    await redis_client.hset(
        "session:CA1", mapping={"agent_id": "living one", "last_activity_at": written, "status": "in_progress"}
    )
    await replay(redis_server, spool)
    stored = await redis_client.hgetall("session:CA1")
    assert stored["agent_id"] == "living one"
    assert stored["language"] == "pl"
    assert stored["last_activity_at"] == written
    assert "finalize_reason" not in stored
    assert await redis_client.zscore("session-bridge:ready", "CA1") is None
    assert await turns(redis_client) == list(range(50))


@pytest.mark.parametrize("form", ["iso", "zone", "seconds", "milliseconds", "date only"])
async def test_a_dead_process_was_newer_than_what_is_there(
    redis_server: Any, redis_client: Any, spool: Path, form: str
) -> None:
    await asyncio.to_thread(leave, redis_server, spool, "disconnect")
    past = time.time() - 60
    written = {
        "iso": time.strftime("%Y-%m-%dT%H:%M:%S.123+00:00", time.gmtime(past)),
        "zone": time.strftime("%Y-%m-%dT%H:%M-0530", time.gmtime(past - 19800)),
        "seconds": str(int(past)),
        "milliseconds": str(past * 1000),
        "date only": "2020-02-29T00:00:00Z",
    }[form]
    await redis_client.hset("session:CA1", mapping={"agent_id": "older one", "last_activity_at": written})
    await replay(redis_server, spool)
    assert await redis_client.hget("session:CA1", "agent_id") == "dead one"
    assert await redis_client.zscore("session-bridge:ready", "CA1") is not None


async def test_damaged_lines_are_set_aside_and_the_rest_is_replayed(
    redis_server: Any, redis_client: Any, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(leave, redis_server, spool, "disconnect")
    path = max(spool.rglob("*.jsonl"))
    content = path.read_bytes()
    path.write_bytes(b'{"kind":"event"}\n\xff\xfe\n[' + b"[" * 100_000 + b"\n" + content + content[:40])
    await replay(redis_server, spool)
    assert await turns(redis_client) == list(range(50))
    (kept,) = spool.rglob("*.bad")
    assert len(kept.read_bytes().splitlines()) == 4
    assert "4 damaged lines" in caplog.text


async def test_two_processes_do_not_replay_one_file(redis_server: Any, spool: Path) -> None:
    """A spool whose writer lives is left to it."""
    redis_server.stop()
    async with asyncio.timeout(30):
        mine = CallRecorder("mine", redis=redis_server.url, spool_dir=spool)
        mine.record_message("user", "hi")
        assert await mine.disconnected() is False
        before = sorted(spool.rglob("*.jsonl"))
        assert before
        with await asyncio.to_thread(start, redis_server.url, spool, "disconnect") as process:
            await asyncio.to_thread(process.wait, 20)
        assert set(before) < set(spool.rglob("*.jsonl"))
        assert len([path for path in next(spool.iterdir()).iterdir() if path.is_dir()]) == 2
    redis_server.start()
    assert await mine.flush(10)


def test_a_loop_that_is_closed_without_a_word_leaves_its_events_on_disk(spool: Path) -> None:
    script = """
import asyncio, sys
from session_bridge.recorder import CallRecorder
loop = asyncio.new_event_loop()
async def main():
    call = CallRecorder("CA1", redis="redis://127.0.0.1:1", spool_dir=sys.argv[1])
    call.record_message("user", "hi")
    return call
call = loop.run_until_complete(main())
loop.close()
call.record_message("user", "after the end")
"""
    finished = subprocess.run([sys.executable, "-c", script, spool], check=True, capture_output=True, text=True)
    assert "Traceback" not in finished.stderr
    lines = [json.loads(line) for path in spool.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    assert [line["kind"] for line in lines].count("event") == 2


def test_a_forked_child_leaves_its_parents_events_to_the_parent(spool: Path) -> None:
    script = """
import asyncio, atexit, os, sys
from session_bridge.recorder import CallRecorder
async def main():
    call = CallRecorder("CA1", redis="redis://127.0.0.1:1", spool_dir=sys.argv[1])
    call.record_message("user", "hi")
    child = os.fork()
    if child == 0:
        atexit._run_exitfuncs()
        os._exit(0)
    os.waitpid(child, 0)
    await call.end()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, spool], check=True, capture_output=True)
    lines = [json.loads(line) for path in spool.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    assert [line["kind"] for line in lines].count("event") == 1


async def test_one_redis_never_gets_what_was_recorded_for_another(
    redis_server: Any, redis_client: Any, spool: Path
) -> None:
    async with CallRecorder("other", redis=DEAD, spool_dir=spool) as call:
        call.record_message("user", "hi")
    async with CallRecorder("mine", redis=redis_server.url, spool_dir=spool) as call:
        await call.flush(5)
        await asyncio.sleep(0.1)
    assert list(spool.rglob("*.jsonl"))
    assert await redis_client.exists("session:other") == 0


async def test_the_same_service_of_other_sentinels_is_another_redis(spool: Path) -> None:
    async def record(sid: str, hosts: str) -> None:
        async with CallRecorder(sid, redis=f"redis+sentinel://{hosts}/calls", spool_dir=spool) as call:
            call.record_message("user", "hi")

    here, again, there = "127.0.0.1:1,[::1]:2", "[::1]:2,127.0.0.1:1", "127.0.0.1:1,[::1]:3"
    await asyncio.gather(record("CA1", here), record("CA2", again), record("CA3", there))
    calls = {
        home.name: {
            json.loads(line)["call_sid"] for path in home.rglob("*.jsonl") for line in path.read_bytes().splitlines()
        }
        for home in spool.iterdir()
    }
    assert sorted(map(sorted, calls.values())) == [["CA1", "CA2"], ["CA3"]]


@pytest.mark.parametrize("refused", ["flock", "fsync"])
def test_a_folder_that_cannot_be_had_leaves_nothing_behind(
    spool: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "as on a network's disk")

    with monkeypatch.context() as broken:
        broken.setattr(fcntl if refused == "flock" else os, refused, refuse)
        opened = len(list(Path("/dev/fd").iterdir()))
        for _ in range(3):
            with pytest.raises(OSError, match="network's disk"):
                Spool(spool).write([])
        assert len(list(Path("/dev/fd").iterdir())) == opened
        assert not list(spool.iterdir())
    writer = Spool(spool)
    writer.write([])
    writer.forget()
    assert [len(left.waiting) for left in Spool(spool).adopt()] == [1]


def test_what_others_put_beside_the_spool_is_left_alone(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Spool(spool)
    writer.write([])
    writer.forget()
    (spool / "elsewhere").symlink_to(next(spool.iterdir()))
    with monkeypatch.context() as another:
        another.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert Spool(spool).adopt() == []
    assert len(Spool(spool).adopt()) == 1
