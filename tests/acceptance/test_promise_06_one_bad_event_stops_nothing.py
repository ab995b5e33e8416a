"""Promise 6: a bad event becomes a reject, a bad call a dead session, and neither delays what is beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest

NEIGHBOURS = [f"CA{number}" for number in range(49)]


def test_one_bad_event_is_kept_raw_and_the_rest_is_archived(deployment: Any, call_fields: Any) -> None:
    worker = deployment.worker()
    raw = b'{"role": "user", "content": \xff\x00'
    deployment.raw.hset("session:CA1", "message:bad", raw)
    deployment.drain("CA1", call_fields("CA1") | {"metric:1": '{"metric_type": "x"}', "cost:1": "[]", "odd": "kept"})
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    rejects = deployment.rows("SELECT field_raw, raw, size_bytes FROM call_session_rejects ORDER BY field")
    assert rejects == [
        (b"cost:1", b"[]", 2),
        (b"message:bad", raw, len(raw)),
        (b"metric:1", b'{"metric_type": "x"}', 20),
    ]
    assert deployment.call("CA1")["extra"] == {"odd": "kept"}
    assert deployment.call("CA1")["completeness"] == "partial"
    assert deployment.state("CA1") == "archived"
    worker.stop()


@pytest.mark.parametrize("field", ["collected_data", "analysis", "metadata", "objections_encountered"])
def test_an_empty_document_is_nothing_bad(deployment: Any, call_fields: Any, field: str) -> None:
    done = deployment.run("check", "-", "--json", stdin=json.dumps(call_fields("CA1") | {field: ""}))
    assert json.loads(done.stdout)["rejects"] == []
    assert done.returncode == 0


def test_a_call_that_postgresql_refuses_dies_alone_and_comes_back_on_command(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    # This stands for whatever no reader of fields could foresee.
    deployment.rows("ALTER TABLE call_messages ADD CONSTRAINT polite CHECK (content <> 'rude')")
    worker = deployment.worker(MAX_ATTEMPTS=2, BATCH_SIZE=50)
    rude = call_fields("CArude") | {"message:9": json.dumps({"role": "user", "content": "rude"}), "odd": "\x00\x01"}
    deployment.write("CArude", rude)
    deployment.raw.hset("session:CArude", b"\xff\xfe", b"\x00\xff")
    held = deployment.raw.hgetall("session:CArude")
    for sid in NEIGHBOURS:
        deployment.write(sid)
    deployment.ask(*NEIGHBOURS[:20], "CArude", *NEIGHBOURS[20:])

    refused = worker.wait_for("drain.refused")
    deployment.until_archived(*NEIGHBOURS)
    assert not worker.said("drain.dead"), "its neighbours waited for its last attempt"
    assert (refused["call_sid"][:4], refused["attempt"]) == ("sid#", 1)
    worker.wait_for("drain.dead")
    until(lambda: deployment.is_gone("CArude"))
    assert deployment.state("CArude") == "dead"
    for sid in NEIGHBOURS:
        assert deployment.said(sid) == [f"{sid} says 0", f"{sid} says 1"]
    assert not deployment.redis.hgetall("session-bridge:attempts")
    kept = deployment.rows("SELECT field_raw, raw FROM dead_session_fields")
    assert dict(kept) == held

    [listed] = json.loads(deployment.run("dead", "list", "--json").stdout)
    assert (listed["call_sid"], listed["reason"], listed["attempts"]) == ("CArude", "refused", 2)
    assert "polite" in listed["error"]
    number = str(listed["id"])
    assert "CArude" in deployment.run("dead", "list").stdout
    shown = json.loads(deployment.run("dead", "show", number, "--json").stdout)
    assert {field["field"] for field in shown["raw"]} >= {"message:9", "provider"}
    assert "rude" in deployment.run("dead", "show", number).stdout

    deployment.rows("ALTER TABLE call_messages DROP CONSTRAINT polite")
    done = deployment.run("dead", "retry", number)
    assert (done.returncode, done.stdout) == (0, "1 given back; a worker drains them now\n"), done.stderr
    deployment.until_archived("CArude")
    assert "rude" in deployment.said("CArude")
    assert json.loads(deployment.run("dead", "list", "--json").stdout) == []
    assert len(json.loads(deployment.run("dead", "list", "--all", "--json").stdout)) == 1
    worker.stop()


def test_a_dead_session_written_again_meanwhile_keeps_the_newer_fields(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    deployment.rows("ALTER TABLE call_messages ADD CONSTRAINT polite CHECK (content <> 'rude')")
    worker = deployment.worker(MAX_ATTEMPTS=1)
    deployment.write("CA1", call_fields("CA1") | {"message:1": json.dumps({"role": "user", "content": "rude"})})
    deployment.ask("CA1")
    until(lambda: deployment.state("CA1") == "dead" and deployment.is_gone("CA1"))
    deployment.redis.hset("session:CA1", "message:1", json.dumps({"role": "user", "content": "polite"}))
    assert deployment.run("dead", "retry", "--all").returncode == 0
    deployment.until_archived("CA1")
    assert deployment.said("CA1") == ["CA1 says 0", "polite"]
    worker.stop()


def test_a_request_for_no_time_stops_nothing(deployment: Any, call_fields: Any) -> None:
    scores = {"CAnever": "+inf", "CAnanoseconds": "1763632800000000000", "CAalways": "-inf", "CAearly": "-1e300"}
    for sid in scores:
        deployment.write(sid)
    deployment.redis.zadd("session-bridge:ready", {"CAnever": "+inf"})
    worker = deployment.worker()
    deployment.drain("CA1", call_fields("CA1"))
    deployment.redis.zadd("session-bridge:ready", scores)
    explained = {sid: deployment.run("explain", sid) for sid in scores}
    assert "no time" in explained["CAnever"].stdout, explained["CAnever"].stderr
    assert "no time" in explained["CAnanoseconds"].stdout, explained["CAnanoseconds"].stderr
    assert json.loads(deployment.run("explain", "CAnever", "--json").stdout)["now"]["due_ms"] == "inf"
    deployment.until_archived("CAalways", "CAearly")
    assert all(done.returncode == 0 for done in explained.values())
    assert json.loads(deployment.run("explain", "CAalways", "--json").stdout)["now"]["due_at"] is None
    assert deployment.redis.zscore("session-bridge:ready", "CAnever") == float("inf")
    deployment.ask("CAnever", "CAnanoseconds")
    deployment.until_archived("CAnever", "CAnanoseconds")
    worker.stop()
    assert not worker.said("worker.waiting"), "it is no trouble of a server"


def test_a_queue_that_somebody_made_something_else_is_said_and_waited_for(deployment: Any, call_fields: Any) -> None:
    worker = deployment.worker()
    deployment.redis.delete("session-bridge:ready")
    deployment.redis.set("session-bridge:ready", "no sorted set")
    said = worker.wait_for("worker.waiting")["reason"]
    assert "WRONGTYPE" in said
    assert "session-bridge:ready" in said
    deployment.redis.delete("session-bridge:ready")
    worker.wait_for("worker.going_on")
    deployment.drain("CA1", call_fields("CA1"))
    worker.stop()
