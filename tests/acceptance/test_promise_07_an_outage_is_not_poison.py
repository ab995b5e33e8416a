"""Promise 7: an outage costs no attempt and kills no session; a call that kills workers takes nobody along."""

from __future__ import annotations

import json
import threading
from typing import Any

import psycopg
import pytest
import redis
from arq.connections import ArqRedis
from redis.asyncio import ConnectionPool

from deployments import CALL_ROW, ENTRY
from session_bridge.live.scripts import Script

RELEASE = Script.load("release").digest
WRITTEN_NOT_COMMITTED = (CALL_ROW, "COMMIT")
SIDS = [f"CA{number}" for number in range(60)]


def assert_all_archived_once(deployment: Any) -> None:
    deployment.until_archived(*SIDS)
    assert deployment.value("SELECT count(*) FROM call_sessions") == len(SIDS)
    messages = deployment.rows("SELECT content FROM call_messages ORDER BY content")
    assert messages == sorted((f"{sid} says {turn}",) for sid in SIDS for turn in range(2))
    assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
    assert not deployment.redis.hgetall("session-bridge:attempts")
    assert not deployment.redis.hgetall("session-bridge:in-hand")


def write_all(deployment: Any) -> None:
    for sid in SIDS:
        deployment.write(sid)


def test_postgresql_is_killed_and_comes_back(
    mortal_deployment: Any, mortal_postgres: Any, proxy_to: Any, until: Any
) -> None:
    deployment = mortal_deployment
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through, BATCH_SIZE=20)
    commit = proxy.hold(*WRITTEN_NOT_COMMITTED)
    write_all(deployment)
    deployment.ask(*SIDS)
    commit.wait()
    mortal_postgres.stop(mode="immediate")
    commit.let_go()
    assert "DATABASE_URL" in worker.wait_for("worker.waiting")["reason"]
    assert worker.running
    assert not deployment.redis.hgetall("session-bridge:attempts")
    mortal_postgres.start()
    assert_all_archived_once(deployment)
    worker.wait_for("worker.going_on")
    worker.stop()


def test_redis_is_killed_between_commit_and_release_and_comes_back(
    mortal_deployment: Any, mortal_valkey: Any, proxy_to: Any
) -> None:
    deployment = mortal_deployment
    proxy, through = proxy_to(deployment.redis_url)
    worker = deployment.worker(REDIS_URL=through, BATCH_SIZE=20, LEASE_SECONDS=4)
    release = proxy.hold(RELEASE)
    write_all(deployment)
    deployment.ask(*SIDS)
    release.wait()
    mortal_valkey.kill()
    release.let_go()
    assert "REDIS_URL" in worker.wait_for("worker.waiting")["reason"]
    mortal_valkey.start()
    assert_all_archived_once(deployment)
    assert worker.running
    worker.stop()


def test_the_network_is_cut_reset_and_stalled(deployment: Any, proxy_to: Any) -> None:
    to_archive, archive_url = proxy_to(deployment.database_url)
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(DATABASE_URL=archive_url, REDIS_URL=redis_url, BATCH_SIZE=5)
    write_all(deployment)
    for start, proxy in enumerate((to_archive, to_redis, to_archive, to_redis)):
        deployment.ask(*SIDS[start * 15 : start * 15 + 15])
        proxy.reset()
    to_archive.cut()
    to_redis.stall()
    deployment.ask(*SIDS)
    worker.lines.clear()
    to_redis.mend()
    worker.wait_for("worker.waiting")
    to_archive.mend()
    deployment.until_archived(*SIDS)
    assert deployment.value("SELECT count(*) FROM call_sessions") == len(SIDS)
    assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
    worker.stop()


@pytest.mark.parametrize("state", ["53100", "40P01", "25006", "57P01", "58030", "40001", "XX000"])
def test_an_error_of_the_servers_own_costs_no_attempt(deployment: Any, state: str) -> None:
    deployment.rows(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'it is me' USING ERRCODE = '{state}'; END $$"
    )
    deployment.rows("CREATE TRIGGER failing BEFORE INSERT ON call_sids EXECUTE FUNCTION fail()")
    worker = deployment.worker(MAX_ATTEMPTS=1)
    deployment.write("CA1")
    deployment.ask("CA1")
    assert state in worker.wait_for("worker.waiting")["reason"]
    deployment.rows("DROP TRIGGER failing ON call_sids")
    deployment.until_archived("CA1")
    assert not worker.said("drain.refused")
    assert not worker.said("drain.dead")
    worker.stop()


@pytest.mark.parametrize(
    "lock",
    [
        "LOCK TABLE call_messages IN SHARE MODE",  # as CREATE INDEX does, for as long as it takes
        ENTRY.format("CA0"),  # as one who went home in the middle
    ],
    ids=["table", "row"],
)
def test_what_somebody_has_locked_makes_nobody_dead(deployment: Any, until: Any, lock: str) -> None:
    worker = deployment.worker(LEASE_SECONDS=2)
    with psycopg.connect(deployment.database_url) as somebody:
        somebody.execute(lock)
        write_all(deployment)
        deployment.ask(*SIDS)
        if lock == ENTRY.format("CA0"):
            deployment.until_archived(*SIDS[1:])
        until(lambda: len(worker.said("drain.locked")) >= 3, "no call was found locked again and again")
        assert deployment.value("SELECT count(*) FROM dead_sessions") == 0
        somebody.rollback()
    assert_all_archived_once(deployment)
    worker.stop()


def test_a_call_that_runs_out_of_time_dies_alone(deployment: Any, call_fields: Any, until: Any) -> None:
    deployment.rows(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$"
    )
    deployment.rows(
        "CREATE TRIGGER slow BEFORE INSERT ON call_sessions FOR EACH ROW "
        "WHEN (NEW.call_sid = 'CAslow') EXECUTE FUNCTION dawdle()"
    )
    worker = deployment.worker(LEASE_SECONDS=2)
    neighbours = ["CA1", "CA2", "CA3"]
    for sid in ("CAslow", *neighbours):
        deployment.write(sid)
    # The slow one first in every batch.
    deployment.redis.zadd("session-bridge:ready", {"CAslow": 1, "CA1": 2, "CA2": 3, "CA3": 4})
    deployment.until_archived(*neighbours)
    until(lambda: deployment.is_gone("CAslow"), "it did not die")
    assert deployment.state("CAslow") == "dead"
    assert len(worker.said("drain.timed_out")) == 4
    [(reason, fields)] = deployment.rows("SELECT reason, fields FROM dead_sessions")
    assert (reason, fields) == ("fatal", len(call_fields("CAslow")))
    deployment.drain("CA4", call_fields("CA4"))
    worker.stop()


@pytest.mark.parametrize("size", ["usual", "huge"])
def test_a_call_that_kills_its_worker_dies_alone(
    deployment: Any, proxy_to: Any, until: Any, call_fields: Any, size: str
) -> None:
    proxy, through = proxy_to(deployment.database_url)
    neighbours = ["CA1", "CA2", "CA3"]
    deadly_fields = call_fields("CAdeadly") | ({"notes": "x" * 2_000_000} if size == "huge" else {})
    deployment.write("CAdeadly", deadly_fields)
    for sid in neighbours:
        deployment.write(sid)
    # Slow as they are, its neighbours would be in hand at each kill if they were drained beside it.
    deployment.rows(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END $$"
    )
    deployment.rows(
        "CREATE TRIGGER slow BEFORE INSERT ON call_sessions FOR EACH ROW "
        "WHEN (NEW.call_sid <> 'CAdeadly') EXECUTE FUNCTION dawdle()"
    )
    deployment.redis.zadd("session-bridge:ready", {"CAdeadly": 1, "CA1": 2, "CA2": 3, "CA3": 4})
    kills = 0

    while deployment.state("CAdeadly") != "dead":
        assert kills < 8, "it goes on killing"
        deadly = proxy.hold(CALL_ROW, "CAdeadly")
        worker = deployment.begin_worker(DATABASE_URL=through, LEASE_SECONDS=4, SWEEP_SECONDS=3600)
        until(lambda: deadly.reached or deployment.state("CAdeadly") == "dead")  # noqa: B023
        if deadly.reached:
            worker.kill()
            kills += 1
        deadly.cut()

    deployment.until_archived(*neighbours)
    until(lambda: deployment.is_gone("CAdeadly"))
    assert kills == 4
    [(sid, reason, fields)] = deployment.rows("SELECT call_sid, reason, fields FROM dead_sessions")
    assert (sid, reason, fields) == ("CAdeadly", "fatal", len(deadly_fields))
    for sid in neighbours:
        assert deployment.said(sid) == [f"{sid} says 0", f"{sid} says 1"]


def test_requests_repeated_over_a_slow_drain_make_no_call_dead(deployment: Any, proxy_to: Any, until: Any) -> None:
    """A request over a lease is news, not a sign that a worker died."""
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through, CONCURRENCY=8)
    holds = [proxy.hold("INSERT INTO call_sids", "CA1") for _ in range(7)]
    deployment.write("CA1")
    for hold in holds:
        deployment.ask("CA1")
        hold.wait()
    for hold in holds:
        threading.Thread(target=hold.let_go).start()
    deployment.until_archived("CA1")
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    assert json.loads(deployment.run("dead", "list", "--json").stdout) == []
    worker.stop()


async def test_a_request_through_arq_outlives_an_outage_of_the_sessions_redis(
    mortal_deployment: Any, mortal_valkey: Any, redis_url: str, until: Any
) -> None:
    deployment = mortal_deployment
    pool = ArqRedis(
        ConnectionPool.from_url(redis_url),
        job_serializer=lambda job: json.dumps(job).encode(),
        default_queue_name="session-bridge:queue",
    )
    worker = deployment.worker(QUEUE_REDIS_URL=redis_url)
    deployment.write("CA1")
    mortal_valkey.stop()
    job = await pool.enqueue_job("finalize_session", "CA1", reason="webhook")
    assert job is not None
    with redis.Redis.from_url(redis_url) as queue:
        until(lambda: queue.exists(f"arq:retry:{job.job_id}"), "nobody began it")
        until(lambda: not queue.exists(f"arq:in-progress:{job.job_id}"), "nobody ended it")
    await pool.aclose(close_connection_pool=True)
    mortal_valkey.start()
    deployment.until_archived("CA1")
    assert deployment.call("CA1")["finalize_reason"] == "webhook"
    worker.stop()
