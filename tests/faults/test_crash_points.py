# ruff: noqa: ASYNC110, ASYNC240  # one test waits for what another process does
"""A process killed at any step leaves an archive like that of an undisturbed run, and nothing of the call in Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from session_bridge.archive.tables import CHILDREN
from session_bridge.recorder import CallRecorder
from session_bridge.simulate import live_fields, script

# A sweep would take an older call that says nothing for an abandoned one.
AT = datetime.now(UTC).replace(microsecond=0)
LEASE = {"LEASE_SECONDS": 2}
KILLED, ONCE = "CAkilled", "CAonce"
HUGE = {"message:huge": json.dumps({"role": "user", "content": "so much " * 300_000})}
DRAIN = ["claimed", "read", "locked", "written", "committed", "released"]
# What an undisturbed run writes too, but neither the same nor as often.
OWN = ["id", "session_id", "call_sid", "drains", "first_archived_at", "archived_at"]


def whole_call() -> dict[str, str]:
    """A long conversation, and what nobody understands."""
    return live_fields(script(11), AT) | {"mood:1": '{"label": "glad"}', "message:bad": "{not json", "wrong_time": "?"}


def ending() -> dict[str, str]:
    return {"status": "completed", "ended_at": (AT + timedelta(minutes=5)).isoformat()}


def begun() -> dict[str, str]:
    """The call before its end."""
    return {name: text for name, text in whole_call().items() if name not in ("status", "ended_at", "end_reason")}


def archived(deployment: Any, sid: str) -> dict[str, list[Any]]:
    """All that the archive has of a call, but for what names it and when it was written."""
    tables = [table.name for table in CHILDREN]
    whose = "session_id IN (SELECT session_id FROM call_sids WHERE call_sid = %s)"
    queries = {name: f"SELECT to_jsonb(t) - %s::text[] AS row FROM {name} AS t WHERE {whose}" for name in tables}
    queries["call_sessions"] = "SELECT to_jsonb(t) - %s::text[] AS row FROM call_sessions AS t WHERE call_sid = %s"
    queries["rejects"] = (
        "SELECT to_jsonb(t) - (%s::text[] || 'rejected_at'::text) AS row FROM call_session_rejects AS t "
        "WHERE call_sid = %s"
    )
    queries["book"] = "SELECT jsonb_build_object('state', state, 'status', status) - %s::text[] AS row FROM call_sids "
    queries["book"] += "WHERE call_sid = %s"
    queries["dead"] = (
        "SELECT jsonb_build_object('reason', reason, 'error', error, 'fields', fields, 'size', size_bytes, 'kept', "
        "(SELECT sum(length(raw)) FROM dead_session_fields WHERE dead_id = id)) - %s::text[] AS row "
        "FROM dead_sessions WHERE call_sid = %s"
    )
    return {
        name: [row for (row,) in deployment.rows(f"{query} ORDER BY row", OWN, sid)] for name, query in queries.items()
    }


def assert_made_good(deployment: Any, state: str = "archived") -> None:
    """The killed call is archived as the other is, and Redis holds nothing of either."""
    assert deployment.state(KILLED) == deployment.state(ONCE) == state
    assert archived(deployment, KILLED) == archived(deployment, ONCE)
    assert not deployment.redis.keys("session:*")
    for name in ("ready", "checkpoints", "in-hand", "attempts", "opened"):
        assert not deployment.redis.exists(f"session-bridge:{name}"), name


@pytest.mark.parametrize("point", DRAIN)
def test_inside_a_drain(deployment: Any, dying: Callable[..., Any], point: str) -> None:
    deployment.write(KILLED, whole_call())
    deployment.ask(KILLED)
    dying(point, "worker", **LEASE).wait_for_its_death()
    worker = deployment.begin_worker(**LEASE)
    deployment.drain(ONCE, whole_call())
    deployment.until_archived(KILLED)
    assert_made_good(deployment)
    worker.stop()


@pytest.mark.parametrize("point", ["committed", "let go field by field", "released"])
def test_inside_a_drain_of_a_huge_call(deployment: Any, dying: Callable[..., Any], point: str) -> None:
    deployment.write(KILLED, whole_call() | HUGE)
    deployment.ask(KILLED)
    dying(point, "worker", **LEASE).wait_for_its_death()
    worker = deployment.begin_worker(**LEASE)
    deployment.drain(ONCE, whole_call() | HUGE)
    deployment.until_archived(KILLED)
    assert_made_good(deployment)
    worker.stop()


@pytest.mark.parametrize("point", DRAIN)
def test_inside_a_merge(deployment: Any, dying: Callable[..., Any], point: str) -> None:
    worker = deployment.worker()
    late = {"recording_url": "https://recordings.example/1", "message:late": '{"role": "system", "content": "closed"}'}
    deployment.drain(KILLED, whole_call())
    worker.stop()
    deployment.write(KILLED, late)
    deployment.ask(KILLED)
    dying(point, "worker", **LEASE).wait_for_its_death()
    worker = deployment.begin_worker(**LEASE)
    deployment.drain(ONCE, whole_call())
    deployment.drain(ONCE, late)
    deployment.until_archived(KILLED)
    assert_made_good(deployment)
    worker.stop()


@pytest.mark.parametrize("point", ["claimed", "read", "locked", "written", "committed", "settled"])
def test_inside_a_checkpoint(deployment: Any, dying: Callable[..., Any], until: Any, point: str) -> None:
    deployment.write(KILLED, begun())
    deployment.redis.zadd("session-bridge:checkpoints", {KILLED: 0})
    dying(point, "worker", **LEASE).wait_for_its_death()
    assert deployment.fields(KILLED) == begun(), "a checkpoint releases nothing"
    worker = deployment.begin_worker(**LEASE)
    until(lambda: deployment.state(KILLED) == "checkpointed")
    until(lambda: not deployment.redis.exists("session-bridge:checkpoints"))
    assert deployment.fields(KILLED) == begun()
    deployment.drain(KILLED, ending())
    deployment.drain(ONCE, begun() | ending())
    assert_made_good(deployment)
    worker.stop()


@pytest.mark.parametrize("point", ["opened entered", "met", "held", "asked", "noted"])
def test_inside_a_sweep(deployment: Any, dying: Callable[..., Any], until: Any, point: str) -> None:
    """Of a call that ended and was never asked for, near its expiry."""
    short = {"TTL_SECONDS": 600, "SWEEP_SECONDS": 3}
    for sid in (KILLED, ONCE):
        deployment.write(sid, begun() | ending(), ttl=60)
        deployment.redis.zadd("session-bridge:opened", {sid: 1})
        if sid is KILLED:
            dying(point, "worker", **LEASE, **short).wait_for_its_death()
    worker = deployment.begin_worker(**LEASE, **short)
    until(lambda: deployment.is_gone(KILLED) and deployment.is_gone(ONCE), "it was not rescued")
    until(lambda: not deployment.redis.exists("session-bridge:opened"))
    assert_made_good(deployment)
    worker.stop()


def test_inside_a_sweep_that_asks_for_checkpoints(deployment: Any, dying: Callable[..., Any], until: Any) -> None:
    short = {"TTL_SECONDS": 600, "SWEEP_SECONDS": 3, "CHECKPOINT_SECONDS": 1}
    deployment.write(KILLED, begun())
    dying("checkpoints asked", "worker", **LEASE, **short).wait_for_its_death()
    worker = deployment.begin_worker(**LEASE, **short)
    until(lambda: deployment.state(KILLED) == "checkpointed")
    deployment.drain(KILLED, ending())
    deployment.drain(ONCE, begun() | ending())
    assert_made_good(deployment)
    worker.stop()


@pytest.mark.parametrize("point", ["attempt counted", "dead fields kept", "dead entered", "death told", "released"])
def test_inside_a_dead_letter(deployment: Any, dying: Callable[..., Any], until: Any, point: str) -> None:
    deployment.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'never' USING ERRCODE = '22000'; END $$"
    )
    deployment.rows("CREATE TRIGGER refusing BEFORE INSERT ON call_sessions FOR EACH ROW EXECUTE FUNCTION refuse()")
    for sid in (KILLED, ONCE):
        deployment.write(sid, whole_call())
    deployment.ask(KILLED)
    dying(point, "worker", MAX_ATTEMPTS=1, **LEASE).wait_for_its_death()
    worker = deployment.begin_worker(MAX_ATTEMPTS=1, **LEASE)
    deployment.ask(ONCE)
    until(lambda: deployment.is_gone(KILLED) and deployment.is_gone(ONCE), "it did not die")
    assert_made_good(deployment, "dead")
    worker.stop()


@pytest.mark.parametrize("point", ["replay begins", "replay sent", "replay forgotten"])
async def test_inside_the_replay_of_a_spool(
    deployment: Any, dying: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv("REDIS_URL", deployment.redis_url)
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path))
    spool = {"SPOOL_DIR": str(tmp_path)}
    recorder = CallRecorder(KILLED, provider="twilio")
    identity = recorder.record_message("user", "Hello?")
    recorder._flusher.spool_now()  # as if Redis had been away until the process ended
    recorder._flusher.abandon()
    await asyncio.to_thread(dying(point, "replay", **spool).wait_for_its_death)
    again = CallRecorder("CAthird")
    again.record_message("user", "Good morning.")
    assert await again.flush(10)
    while not deployment.redis.exists(f"session:{KILLED}") or list(tmp_path.rglob("*.jsonl")):
        await asyncio.sleep(0.02)
    assert json.loads(deployment.fields(KILLED)[f"message:{identity}"])["content"] == "Hello?"
    assert [name for name in deployment.fields(KILLED) if name.startswith("message:")] == [f"message:{identity}"]
