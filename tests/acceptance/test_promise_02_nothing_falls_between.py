"""Promise 2: what any writer writes or asks for, at any moment of a drain, is never lost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from deployments import CALL_ROW
from session_bridge.live.scripts import Script

WRITTEN_NOT_COMMITTED = (CALL_ROW, "COMMIT")
RELEASE = Script.load("release").digest
SETTLE = Script.load("settle").digest
LARGE = "x" * 1_500_000  # more than is read in one piece


def message(content: str) -> str:
    return json.dumps({"role": "user", "content": content, "timestamp": 1_763_632_900})


# What plain writers do to a call in the middle of its drain, by call SID: nobody uses a script or a revision.
def write_in_between(deployment: Any) -> None:
    client = deployment.redis
    client.hset("session:CAfield", "summary", "late")
    client.hset("session:CArewritten", "agent_name", "Bob")
    client.hset("session:CAevent", "message:1", message("rewritten"))
    client.hset("session:CAmessage", "message:7", message("one more"))
    client.hset("session:CAlarge", mapping={"summary": "late", "notes": LARGE + "y"})
    client.hset("session:CAboth", "message:7", message("one more"))
    client.zadd("session-bridge:ready", {"CAboth": int(time.time() * 1000)})
    client.zadd("session-bridge:ready", {"CArequest": int(time.time() * 1000)})
    client.hdel("session:CAdeleted", "agent_name")


SIDS = ("CAfield", "CArewritten", "CAevent", "CAmessage", "CAlarge", "CAboth", "CArequest", "CAdeleted", "CAsilent")


def assert_all_is_archived(deployment: Any) -> None:
    deployment.until_archived(*SIDS)
    assert deployment.call("CAfield")["summary"] == "late"
    assert deployment.call("CArewritten")["agent_name"] == "Bob"
    assert deployment.said("CAevent") == ["CAevent says 0", "rewritten"]
    assert deployment.said("CAmessage") == ["CAmessage says 0", "CAmessage says 1", "one more"]
    assert deployment.call("CAlarge")["extra"]["notes"] == LARGE + "y"
    assert deployment.call("CAlarge")["summary"] == "late"
    assert deployment.said("CAboth") == ["CAboth says 0", "CAboth says 1", "one more"]
    for sid in ("CArequest", "CAdeleted", "CAsilent"):
        assert deployment.said(sid) == [f"{sid} says 0", f"{sid} says 1"]
    assert deployment.value("SELECT count(*) FROM call_sessions") == len(SIDS)
    assert not deployment.redis.hgetall("session-bridge:in-hand")


def begin(deployment: Any, call_fields: Any) -> None:
    for sid in SIDS:
        deployment.write(sid, call_fields(sid) | ({"notes": LARGE} if sid == "CAlarge" else {}))
    deployment.ask(*SIDS)


@pytest.mark.parametrize("moment", ["before the read", "between read and commit", "between commit and release"])
def test_what_is_written_in_the_middle_of_a_drain_is_archived(
    deployment: Any, proxy_to: Any, call_fields: Any, moment: str
) -> None:
    to_archive, archive_url = proxy_to(deployment.database_url)
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(DATABASE_URL=archive_url, REDIS_URL=redis_url)
    hold = {
        "before the read": lambda: to_redis.hold("HGETALL"),
        "between read and commit": lambda: to_archive.hold(*WRITTEN_NOT_COMMITTED),
        "between commit and release": lambda: to_redis.hold(RELEASE),
    }[moment]()
    begin(deployment, call_fields)
    hold.wait()
    write_in_between(deployment)
    hold.let_go()
    assert_all_is_archived(deployment)
    worker.stop()


def test_what_is_written_after_a_drain_is_found_by_the_sweep(deployment: Any, call_fields: Any) -> None:
    worker = deployment.worker(SWEEP_SECONDS=1)
    begin(deployment, call_fields)
    deployment.until_archived(*SIDS)
    write_in_between(deployment)
    assert_all_is_archived(deployment)
    worker.stop()


def test_a_plain_write_and_request_between_release_and_settlement_survive(
    deployment: Any, proxy_to: Any, call_fields: Any
) -> None:
    """A large session is let go piece by piece: its fields are gone before its request is."""
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(REDIS_URL=redis_url)
    settlement = to_redis.hold(SETTLE)
    for sid in ("CAwritten", "CArequested"):
        deployment.write(sid, call_fields(sid) | {"notes": LARGE})
    deployment.ask("CAwritten", "CArequested")
    settlement.wait()
    for sid in ("CAwritten", "CArequested"):
        deployment.redis.hset(f"session:{sid}", "message:7", message("one more"))
    deployment.ask("CArequested")
    settlement.let_go()
    deployment.until_archived("CAwritten", "CArequested")
    for sid in ("CAwritten", "CArequested"):
        assert deployment.said(sid) == [f"{sid} says 0", f"{sid} says 1", "one more"]
        assert deployment.call(sid)["extra"]["notes"] == LARGE
    worker.stop()


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_request_taken_back_before_the_release_makes_it_a_checkpoint(
    deployment: Any, proxy_to: Any, call_fields: Any, until: Any, size: str
) -> None:
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(REDIS_URL=redis_url)
    release = to_redis.hold(RELEASE if size == "small" else Script.load("release_fields").digest)
    deployment.write("CA1", call_fields("CA1") | {"notes": "small" if size == "small" else LARGE})
    before = deployment.raw.dump("session:CA1")
    deployment.ask("CA1")
    release.wait()
    deployment.redis.zrem("session-bridge:ready", "CA1")
    release.let_go()

    until(lambda: deployment.state("CA1") == "checkpointed", "the drain did not become a checkpoint")
    assert deployment.raw.dump("session:CA1") == before
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    deployment.redis.hset("session:CA1", "message:2", message("I am still here"))
    deployment.ask("CA1")
    deployment.until_archived("CA1")
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1", "I am still here"]
    assert deployment.call("CA1")["status"] == "completed"
    worker.stop()


def test_a_recorder_that_resumes_in_the_middle_of_a_drain_keeps_its_call(
    deployment: Any, proxy_to: Any, call_fields: Any, until: Any
) -> None:
    """ZREM between read and commit: what was archived as ended is a checkpoint after all."""
    to_archive, archive_url = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=archive_url)
    commit = to_archive.hold(*WRITTEN_NOT_COMMITTED)
    deployment.write("CA1")
    deployment.ask("CA1")
    commit.wait()
    deployment.redis.zrem("session-bridge:ready", "CA1")
    commit.let_go()
    until(lambda: deployment.state("CA1") == "checkpointed", "the drain did not become a checkpoint")
    assert deployment.fields("CA1") == call_fields("CA1")
    worker.stop()
