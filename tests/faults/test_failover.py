"""Sentinels make a replica the primary, which lacks what the old one acknowledged last."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chaos_campaign.sentinels import SERVICE, ReplicatedValkey
from session_bridge.doctor.checks import Absent, Patient, make
from session_bridge.doctor.redis_checks import REDIS_CHECKS
from session_bridge.recorder import CallRecorder, recent
from session_bridge.recorder.address import check_address, client_of
from session_bridge.settings import load_settings

SAID = '{"role": "user", "content": "said"}'


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[ReplicatedValkey]:
    with ReplicatedValkey(tmp_path) as servers:
        yield servers


@pytest.mark.parametrize("lent", [False, True], ids=["its own client", "a client that was lent"])
async def test_a_recorder_sends_again_what_the_replica_never_got(
    replicated: ReplicatedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: bool
) -> None:
    # Nothing is remembered for its age alone.
    monkeypatch.setattr(recent, "_SECONDS", -1.0)
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path / "spool"))
    client = client_of(replicated.url)
    call = CallRecorder("CA1", redis=client if lent else replicated.url, provider="twilio")
    ids = []
    for content in ("one", "two"):
        ids.append(call.record_message("user", content))
        assert await call.flush(10)
        await asyncio.sleep(1.1)  # it asks each second how far the replica is
    await asyncio.to_thread(replicated.part)
    for content in ("three", "four"):
        ids.append(call.record_message("user", content))
        assert await call.flush(10)
    remembered = [entry.name for entry in call._flusher._delivery._recent.entries()]
    assert f"message:{ids[0]}" not in remembered, "what the replica has is forgotten"
    assert {f"message:{identity}" for identity in ids[2:]} <= {*remembered}
    await asyncio.to_thread(replicated.fail_over)
    there: Any = replicated.client().hkeys("session:CA1")
    assert f"message:{ids[1]}".encode() in there
    assert f"message:{ids[2]}".encode() not in there, "the replica never got it"
    ids.append(call.record_message("user", "five"))
    assert await call.flush(30)
    kept: Any = replicated.client().hgetall("session:CA1")
    said = [json.loads(kept[f"message:{identity}".encode()])["content"] for identity in ids]
    assert said == ["one", "two", "three", "four", "five"]
    await call.end()
    assert await call.flush(10)
    await client.aclose()


def test_a_worker_goes_on_and_says_which_plain_writes_may_be_lost(
    replicated: ReplicatedValkey, deployment: Any, until: Any
) -> None:
    deployment.redis_url = replicated.url
    worker = deployment.begin_worker(HEALTH_PORT=0)
    worker.wait_for("worker.started")
    port = worker.wait_for("health.listening")["port"]

    def drain(sid: str) -> None:
        with contextlib.closing(replicated.client()) as client:
            client.hset(f"session:{sid}", "message:1", SAID)
            client.zadd("session-bridge:ready", {sid: 0})
        until(lambda: deployment.state(sid) == "archived")

    drain("CAbefore")
    replicated.part()
    before = datetime.now(UTC)
    # Seen by the worker at its next looks, and nobody asks for its drain.
    replicated.client().hset("session:CAlost", "message:1", SAID)
    sees = replicated.client().info("replication")["master_repl_offset"]  # type: ignore[index]
    after = datetime.now(UTC)
    assert sees
    replicated.fail_over()
    told = worker.wait_for("redis.failover")
    since = datetime.fromisoformat(told["possible_loss_since"])
    assert since <= before
    assert (datetime.now(UTC) - since).total_seconds() >= told["possible_loss_seconds"]
    assert since.timestamp() + told["possible_loss_seconds"] >= after.timestamp()
    assert told["lost_bytes_at_least"] >= 0
    drain("CAafter")

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    assert re.search(r"^session_bridge_redis_failovers_total 1$", text, re.MULTILINE)
    assert re.search(r"^session_bridge_redis_possible_loss_seconds [0-9.]+$", text, re.MULTILINE)
    doctor = json.loads(deployment.run("doctor", "--json").stdout)
    assert "may be missing" in json.dumps(doctor)
    assert f"{since:%H:%M:%S}" in json.dumps(doctor)
    worker.stop()


async def test_sentinels_on_this_machine_may_lead_to_another(replicated: ReplicatedValkey) -> None:
    [check] = [check for check in REDIS_CHECKS if check.id == "redis.tls"]
    settings = load_settings(redis_url=replicated.url, database_url="postgresql://localhost")

    async def found() -> str:
        async with client_of(replicated.url) as client:
            return (await make(check, Patient(settings, client, Absent("", "")))).found

    assert await found() == "on this machine"
    async with client_of(replicated.url) as client:
        pool: Any = client.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.execute_command("SENTINEL", "REMOVE", SERVICE)
            await sentinel.execute_command("SENTINEL", "MONITOR", SERVICE, "192.0.2.1", 6379, 2)
    assert await found() == "the way to Redis is not encrypted"


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://host:port/service", "redis+sentinel://host", "redis+sentinel://host/service/x", "ftp://host",
     "redis+sentinel://a,/service", "redis+sentinel://host/service?timeout=1"],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"write redis\+sentinel|write redis://"):
        check_address(url)


async def test_an_address_names_sentinels_service_database_and_passwords() -> None:
    url = "redis+sentinel://me:a%40b@one,[::1]:7000/calls/3?sentinel_password=c"
    check_address(url)
    async with client_of(url, socket_timeout=1) as client:
        pool: Any = client.connection_pool
        found = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
        assert [(one["host"], one["port"], one["password"]) for one in found] == [
            ("one", 26379, "c"),
            ("::1", 7000, "c"),
        ]
        assert pool.service_name == "calls"
        given = pool.connection_kwargs
        assert (given["db"], given["username"], given["password"]) == (3, "me", "a@b")
