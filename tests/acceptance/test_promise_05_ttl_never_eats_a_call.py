"""Promise 5: while a worker runs, no call expires."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from deployments import CALL_ROW, ENTRY
from session_bridge.recorder import CallRecorder, Keys

WRITTEN_NOT_COMMITTED = (CALL_ROW, "COMMIT")
SHORT = {"TTL_SECONDS": 6, "SWEEP_SECONDS": 2}


def test_a_session_in_a_drain_has_no_ttl(deployment: Any, proxy_to: Any) -> None:
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through)
    commit = proxy.hold(*WRITTEN_NOT_COMMITTED)
    deployment.write("CA1", ttl=2)
    deployment.ask("CA1")
    commit.wait()
    assert deployment.redis.ttl("session:CA1") == -1
    commit.let_go()
    deployment.until_archived("CA1")
    worker.stop()


def test_a_session_that_waits_for_its_time_is_held_by_the_sweep(deployment: Any, until: Any) -> None:
    worker = deployment.worker(**SHORT)
    deployment.write("CA1", ttl=5)
    deployment.redis.zadd("session-bridge:ready", {"CA1": int(time.time() * 1000) + 60_000})
    until(lambda: deployment.redis.ttl("session:CA1") == -1, "it was not held", seconds=5)
    # A writer that goes on sets its TTL again, and loses it again.
    deployment.redis.expire("session:CA1", 5)
    until(lambda: deployment.redis.ttl("session:CA1") == -1, "it was not held again", seconds=5)
    worker.stop()


def test_a_session_near_expiry_is_held_or_rescued(deployment: Any, call_fields: Any, until: Any) -> None:
    worker = deployment.worker(**SHORT)
    alive = call_fields("CAlive") | {"last_activity_at": str(time.time())}
    deployment.write("CAlive", alive, ttl=5)
    deployment.write("CAended", call_fields("CAended") | {"status": "completed"}, ttl=5)
    deployment.redis.hset("session:somebody", mapping={"user": "7", "csrf": "x"})
    deployment.redis.expire("session:somebody", 60)
    until(lambda: deployment.redis.ttl("session:CAlive") == -1, "it was not held", seconds=5)
    deployment.until_archived("CAended")
    assert deployment.fields("CAlive") == alive
    assert deployment.state("CAlive") in ("live", "checkpointed")
    assert deployment.redis.ttl("session:somebody") > 50
    worker.stop()


def test_nothing_expires_while_postgresql_is_away(
    mortal_deployment: Any, mortal_postgres: Any, call_fields: Any, until: Any
) -> None:
    deployment = mortal_deployment
    worker = deployment.worker(**SHORT)
    mortal_postgres.stop(mode="immediate")
    written = time.monotonic()
    asked, ended, later, alive = "CAasked", "CAended", "CAlater", "CAlive"
    for sid in (asked, later, alive):
        deployment.write(sid, call_fields(sid) | {"last_activity_at": str(time.time())}, ttl=5)
    deployment.write(ended, call_fields(ended) | {"status": "completed"}, ttl=5)
    deployment.ask(asked)
    deployment.redis.zadd("session-bridge:ready", {later: int(time.time() * 1000) + 6000})
    before = {sid: deployment.fields(sid) for sid in (asked, later, alive)}

    until(
        lambda: all(deployment.redis.ttl(f"session:{sid}") == -1 for sid in (asked, ended, later, alive)),
        "a session was not held",
        seconds=5,
    )
    time.sleep(max(0, written + 5.2 - time.monotonic()))  # until every TTL has passed
    assert {sid: deployment.fields(sid) for sid in before} == before
    assert deployment.fields(ended)["status"] == "completed"

    mortal_postgres.start()
    deployment.until_archived(asked, ended, later)
    assert deployment.fields(alive) == before[alive]
    worker.stop()


@pytest.mark.parametrize("asked", [True, False])
def test_a_drain_that_hangs_before_its_commit_keeps_no_sweep_from_the_others(
    deployment: Any, call_fields: Any, asked: bool
) -> None:
    for sid in ("CA1", "CA2"):
        deployment.write(sid, call_fields(sid) | {"last_activity_at": str(time.time())}, ttl=60)
    deployment.redis.zadd("session-bridge:opened", {"CA1": 1, "CA3": 1})
    if asked:
        deployment.redis.zadd("session-bridge:ready", {"CA1": int(time.time() * 1000) + 60_000})
    with psycopg.connect(deployment.database_url) as hanging:
        hanging.execute(ENTRY.format("CA1"))
        # Nor does it wait for as long as a drain would.
        assert not deployment.sweep(LEASE_SECONDS=600)["archive_away"]
        hanging.rollback()
    assert deployment.redis.ttl("session:CA1") == deployment.redis.ttl("session:CA2") == -1
    # A call whose drain is asked for is entered by that. Another one that is locked costs its neighbours only the note.
    noted = [deployment.state(sid) for sid in ("CA1", "CA2", "CA3")]
    assert noted == ([None, "live", "live"] if asked else [None] * 3)
    deployment.redis.delete("session-bridge:ready")
    deployment.sweep()
    assert [deployment.state(sid) for sid in ("CA1", "CA2", "CA3")] == ["live"] * 3
    assert not deployment.redis.exists("session-bridge:opened")


async def test_what_a_recorder_writes_renews_the_ttl(redis_url: str, deployment: Any) -> None:
    call = CallRecorder("CA1", redis=redis_url, keys=Keys(), ttl_seconds=100, heartbeat_seconds=0.05)
    call.record_message("user", "hello")
    await call.flush()
    deployment.redis.expire("session:CA1", 5)
    call.record_message("user", "hello?")
    await call.flush()
    assert deployment.redis.ttl("session:CA1") > 90
    await call.end()
