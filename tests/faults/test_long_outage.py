"""Servers that are away for long, or that answer only to say that they cannot serve."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from session_bridge.archive.migrations import migrate
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.recorder import CallRecorder

CALLS = 5000
LIVING = 500
TTL_SECONDS = 20
OUTAGE_SECONDS = TTL_SECONDS + 4
NAMESPACE = "session-bridge"


@pytest.fixture
def own_postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(servers_folder / "outage-postgres", settings={"fsync": "off"}) as server:
        migrate(server.url)
        yield server


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def readiness(worker: Any) -> tuple[int, str]:
    """What the worker answers to whoever asks whether it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", worker.wait_for("health.listening")["port"], timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def write_many(deployment: Any, sids: list[str], fields: Callable[[str], dict[str, str]]) -> None:
    pipeline = deployment.redis.pipeline(transaction=False)
    for sid in sids:
        pipeline.hset(f"session:{sid}", mapping=fields(sid))
        pipeline.expire(f"session:{sid}", TTL_SECONDS)
    pipeline.execute()


def test_postgresql_is_away_longer_than_the_ttl(
    deployment: Any, own_postgres: EmbeddedPostgres, call_fields: Any, until: Any
) -> None:
    deployment.database_url = own_postgres.url
    worker = deployment.worker(TTL_SECONDS=TTL_SECONDS, SWEEP_SECONDS=2, HEALTH_PORT=0)
    own_postgres.stop(mode="immediate")
    waiting = [f"CA{number}" for number in range(CALLS)]
    living = [f"RM_{number}" for number in range(LIVING)]

    def of_now(sid: str) -> dict[str, str]:
        return {**call_fields(sid), "last_activity_at": str(time.time())}

    write_many(deployment, waiting + living, of_now)
    deployment.ask(*waiting)
    time.sleep(OUTAGE_SECONDS)

    assert worker.running
    status, reason = readiness(worker)
    assert (status, "PostgreSQL" in reason) == (503, True)
    assert deployment.redis.dbsize() >= CALLS + LIVING
    pipeline = deployment.redis.pipeline(transaction=False)
    for sid in waiting + living:
        pipeline.ttl(f"session:{sid}")
    assert set(pipeline.execute()) == {-1}, "a session may expire"
    assert deployment.redis.zcard(f"{NAMESPACE}:ready") == CALLS
    for name in ("attempts", "in-hand"):
        assert not deployment.redis.hgetall(f"{NAMESPACE}:{name}")

    own_postgres.start()
    try:
        until(lambda: not deployment.redis.zcard(f"{NAMESPACE}:ready"), "the backlog was not drained", 240)
    except AssertionError as error:
        error.add_note(f"{deployment.redis.zcard(f'{NAMESPACE}:ready')} left; the worker said {worker.lines[-30:]}")
        raise
    counts = dict(deployment.rows("SELECT state, count(*) FROM call_sids WHERE call_sid LIKE 'CA%' GROUP BY state"))
    assert counts == {"archived": CALLS}
    assert deployment.value("SELECT count(*) FROM call_messages WHERE content LIKE 'CA%'") == 2 * CALLS
    assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
    assert deployment.value("SELECT count(*) FROM call_sids WHERE state = 'lost'") == 0
    # In bulk: as many calls as fit into a batch went in with one moment.
    moments = deployment.value("SELECT count(DISTINCT archived_at) FROM call_sessions WHERE call_sid LIKE 'CA%'")
    assert moments < CALLS / 10
    assert all(deployment.redis.exists(f"session:{sid}") for sid in living)
    assert not worker.said("drain.failed")
    until(lambda: readiness(worker)[0] == 200)
    worker.stop()


def test_redis_is_away(deployment: Any, mortal_valkey: EmbeddedValkey, until: Any) -> None:
    deployment.redis_url = mortal_valkey.url
    deployment.redis = redis.Redis.from_url(mortal_valkey.url, decode_responses=True)
    worker = deployment.worker(HEALTH_PORT=0, SWEEP_SECONDS=2)
    until(lambda: readiness(worker)[0] == 200)
    deployment.write("CA1")
    mortal_valkey.kill()
    until(lambda: readiness(worker)[0] == 503)
    assert "Redis" in readiness(worker)[1]
    time.sleep(12)  # longer than arq's own patience
    assert worker.running
    mortal_valkey.start()
    deployment.ask("CA1")
    deployment.until_archived("CA1")
    until(lambda: readiness(worker)[0] == 200)
    assert not worker.said("drain.failed")
    worker.stop()


# -- a Redis that answers, but cannot serve ---------------------------------------------------------------------------


class Refusing:
    """Ways in which a Redis answers with an error of its state, each with the way back."""

    def __init__(self, server: EmbeddedValkey, client: Any) -> None:
        self.server = server
        self.client = client
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            self.nowhere = nobody.getsockname()[1]

    def begin(self, word: str) -> None:
        match word:
            case "OOM":
                self.client.config_set("maxmemory", "1")
            case "READONLY":
                self.client.execute_command("REPLICAOF", "127.0.0.1", self.nowhere)
            case "MASTERDOWN":
                self.client.config_set("replica-serve-stale-data", "no")
                self.client.execute_command("REPLICAOF", "127.0.0.1", self.nowhere)
            case "LOADING":
                self.server.kill()
                slow = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
                self.server._args = (*self.server._args, *slow)
                self._starting = threading.Thread(target=self.server.start)
                self._starting.start()

    def end(self, word: str) -> None:
        match word:
            case "OOM":
                self.client.config_set("maxmemory", "0")
            case "READONLY" | "MASTERDOWN":
                self.client.execute_command("REPLICAOF", "NO", "ONE")
            case "LOADING":
                self._starting.join(60)


@pytest.mark.parametrize("word", ["OOM", "READONLY", "MASTERDOWN", "LOADING"])
async def test_a_redis_that_cannot_serve_is_waited_for(
    deployment: Any, mortal_valkey: EmbeddedValkey, until: Any, spool: Path, word: str
) -> None:
    deployment.redis_url = mortal_valkey.url
    deployment.redis = redis.Redis.from_url(mortal_valkey.url, decode_responses=True)
    refusing = Refusing(mortal_valkey, deployment.redis)
    worker = deployment.worker(HEALTH_PORT=0, MAX_ATTEMPTS=1)
    for number in range(200):
        deployment.write(f"RM_{number}")
    call = CallRecorder("CA1", redis=mortal_valkey.url, spool_dir=spool, provider="twilio")
    call.record_message("user", "before")
    assert await call.flush(5)

    # Due when it cannot be claimed any more: an idle worker has no need to write.
    deployment.redis.zadd(f"{NAMESPACE}:ready", {"RM_0": int(time.time() * 1000) + 1000})
    refusing.begin(word)
    await asyncio.to_thread(until, lambda: readiness(worker)[0] == 503)
    call.record_message("user", "meanwhile")
    assert not await call.flush(1)
    assert worker.running
    refusing.end(word)

    call.record_message("user", "after")
    async with asyncio.timeout(60):
        while not await call.flush(5):  # noqa: ASYNC110  # what it waits for may take several tries
            await asyncio.sleep(0.1)
    assert await call.end()
    await asyncio.to_thread(deployment.until_archived, "CA1")
    assert deployment.said("CA1") == ["before", "meanwhile", "after"]
    assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
    assert not deployment.redis.hgetall(f"{NAMESPACE}:attempts")
    assert not worker.said("drain.failed"), json.dumps(worker.said("drain.failed"))
    worker.stop()
