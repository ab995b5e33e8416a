"""Deployments that share a Redis with others, and workers that share the work."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from session_bridge.archive.migrations import migrate


def test_a_web_login_beside_the_calls_is_neither_archived_nor_touched(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    others = {
        "session:3f9c": {"user_id": "7", "csrf": "x", "metadata": '{"theme": "dark"}', "status": "active"},
        "session:login:8": {"data": "gANjZGphbmdv", "last_activity_at": "1700000000", "ended": ""},
    }
    for key, fields in others.items():
        deployment.redis.hset(key, mapping=fields)
        deployment.redis.expire(key, 60)
    deployment.redis.set("session:flask", '{"_user_id": "1", "provider": "github"}', ex=60)
    deployment.redis.sadd("session:all", "3f9c")
    keys = [*others, "session:flask", "session:all"]
    before = {key: (deployment.raw.dump(key), deployment.raw.expiretime(key)) for key in keys}

    worker = deployment.worker(TTL_SECONDS=400, SWEEP_SECONDS=1)  # with all of them near their end
    deployment.write("CA1", call_fields("CA1") | {"status": "completed"})
    deployment.until_archived("CA1")
    deployment.redis.delete("session-bridge:sweep")
    until(lambda: deployment.redis.exists("session-bridge:sweep"), "no other sweep came")
    assert {key: (deployment.raw.dump(key), deployment.raw.expiretime(key)) for key in keys} == before
    assert deployment.rows("SELECT call_sid FROM call_sids") == [("CA1",)]
    assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
    worker.stop()


def test_two_namespaces_on_one_redis_never_meet(deployment: Any, call_fields: Any, until: Any) -> None:
    staging = {"NAMESPACE": "staging", "KEY_PREFIX": "staging:call:", "SCHEMA": "staging", "SWEEP_SECONDS": 1}
    with psycopg.connect(deployment.database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA staging")
    migrate(deployment.database_url, "staging")
    ours = deployment.worker(SWEEP_SECONDS=1)
    theirs = deployment.worker(**staging)
    ended = call_fields("CA1") | {"status": "completed"}
    deployment.redis.hset("session:CA1", mapping=ended)
    deployment.redis.hset("staging:call:CA1", mapping=ended | {"message:1": '{"role": "user", "content": "staged"}'})
    until(lambda: not deployment.redis.exists("session:CA1", "staging:call:CA1"), "they were not drained")
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    said = "SELECT content FROM staging.call_messages ORDER BY sequence"
    assert [content for (content,) in deployment.rows(said)] == ["CA1 says 0", "staged"]
    assert {key.split(":")[0] for key in deployment.redis.keys("*") if not key.startswith("arq:")} <= {
        "session-bridge",
        "staging",
    }
    ours.stop()
    theirs.stop()


@pytest.mark.parametrize("missing", ["REDIS_URL", "DATABASE_URL"])
def test_one_address_without_the_other_is_refused(deployment: Any, missing: str) -> None:
    for command in ("worker", "sweep", "settings", "status"):
        done = deployment.run(command, **{missing: None})
        assert done.returncode == 2
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert missing in line
        assert "both" in line


def test_a_worker_that_comes_with_another_archive_refuses(deployment: Any, empty_database_url: str) -> None:
    deployment.worker().stop()
    deployment.write("CA1")
    migrate(empty_database_url)
    done = deployment.run("worker", DATABASE_URL=empty_database_url)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "adopt" in line
    assert deployment.redis.exists("session:CA1")

    assert deployment.run("adopt", DATABASE_URL=empty_database_url).returncode == 0
    assert deployment.run("status").returncode == 1  # now it is the old one that does not fit
    deployment.worker(DATABASE_URL=empty_database_url).stop()


@pytest.mark.parametrize("number", [2, 4, 8])
def test_workers_share_the_work_and_do_nothing_twice(
    deployment: Any, call_fields: Any, until: Any, number: int
) -> None:
    workers = [deployment.begin_worker(BATCH_SIZE=5) for _ in range(number)]
    for worker in workers:
        worker.wait_for("worker.started")
    sids = [f"CA{place}" for place in range(400)]
    pipeline = deployment.redis.pipeline(transaction=True)
    for sid in sids:
        pipeline.hset(f"session:{sid}", mapping=call_fields(sid))
    pipeline.zadd("session-bridge:ready", dict.fromkeys(sids, 0))
    pipeline.execute()
    until(lambda: not deployment.redis.zcard("session-bridge:ready"), "it was not drained")
    for worker in workers:
        worker.stop()
    stopped = [worker.said("worker.stopped")[0] for worker in workers]
    assert sum(line["archived"] for line in stopped) == 400
    assert sum(line["merged"] for line in stopped) == 0
    assert sum(1 for line in stopped if line["archived"]) >= 2, "one did everything"
    assert deployment.rows("SELECT max(drains), count(*) FROM call_sids WHERE state = 'archived'") == [(1, 400)]
    assert deployment.value("SELECT count(*) FROM call_messages") == 800
