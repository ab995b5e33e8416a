"""Promise 9: silence is not an end; only a long one closes a call, and a sign of life opens it again.

A provider that can be asked is asked before that, and only its plain word is an end.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from deployments import CALL_ROW
from session_bridge.live.scripts import Script

SWEEPING = {"TTL_SECONDS": 3600, "SWEEP_SECONDS": 1}
RELEASE = Script.load("release").digest
LARGE = "x" * 1_500_000  # more than is read in one piece


def alive(call_fields: Any, sid: str) -> dict[str, str]:
    now = str(time.time())
    return {**call_fields(sid), "started_at": now, "last_activity_at": now}


def long_silent(call_fields: Any, sid: str) -> dict[str, str]:
    """A call whose last sign of life is older than the silence that is allowed."""
    then = str(time.time() - 4000)
    events = {
        name: json.dumps(json.loads(text) | {"timestamp": float(then)})
        for name, text in call_fields(sid).items()
        if name.startswith("message:")
    }
    return {**call_fields(sid), **events, "started_at": then, "last_activity_at": then}


def message(content: str) -> str:
    return json.dumps({"role": "user", "content": content, "timestamp": time.time()})


def test_a_call_with_heartbeats_lives_on(deployment: Any, call_fields: Any, until: Any) -> None:
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=4, CHECKPOINT_SECONDS=1)
    deployment.write("CA1", alive(call_fields, "CA1"))
    for _ in range(40):
        deployment.redis.hset("session:CA1", "last_activity_at", str(time.time()))
        time.sleep(0.15)
        assert deployment.asked("CA1") is None, "somebody asked for its end"
        assert deployment.redis.exists("session:CA1")
    # It is long enough to be written down meanwhile, as a call that goes on.
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not checkpointed")
    row = deployment.call("CA1")
    assert (row["status"], row["ended_at"], row["end_reason"]) == ("in_progress", None, None)
    worker.stop()


@pytest.mark.parametrize("placeholder", ["0001-01-01T00:00:00Z", "0", "null", " ", "9999-12-31T23:59:59Z"])
def test_what_a_writer_has_for_want_of_an_end_is_none(deployment: Any, call_fields: Any, placeholder: str) -> None:
    deployment.write("CA1", alive(call_fields, "CA1") | {"ended_at": placeholder})
    deployment.sweep()
    assert deployment.asked("CA1") is None
    deployment.write("CA2", alive(call_fields, "CA2") | {"ended_at": str(time.time())})
    deployment.sweep()
    assert deployment.asked("CA1") is None
    assert deployment.asked("CA2") is not None


def test_an_idle_call_is_checkpointed_and_nothing_of_it_is_touched(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1)
    deployment.write("CA1", alive(call_fields, "CA1"))
    before = deployment.raw.dump("session:CA1")
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not checkpointed")
    row = deployment.call("CA1")
    assert (row["status"], row["ended_at"]) == ("in_progress", None)
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    assert deployment.raw.dump("session:CA1") == before
    assert deployment.redis.ttl("session:CA1") > 3500
    # It is written down once, and again only when there is something new.
    time.sleep(2)
    assert deployment.value("SELECT drains FROM call_sids") == 1
    deployment.redis.hset("session:CA1", mapping={"message:7": message("still here"), "last_activity_at": time.time()})
    until(lambda: deployment.value("SELECT drains FROM call_sids") == 2, "it was not checkpointed again")
    assert deployment.said("CA1")[-1] == "still here"
    worker.stop()


def test_a_long_silence_abandons_a_call_and_a_message_opens_it_again(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1)
    deployment.write("CA1", alive(call_fields, "CA1"))
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not checkpointed")
    worker.stop()
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=1.5)
    deployment.until_archived("CA1")
    worker.stop()
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1)
    row = deployment.call("CA1")
    assert (row["status"], row["end_reason"], row["status_by"]) == ("abandoned", "abandoned", "inferred")
    assert row["finalized_by"] == "sweep"

    # A recording's link is no sign of life.
    deployment.redis.hset("session:CA1", "recording_url", "https://example.test/1")
    until(lambda: deployment.call("CA1")["recording_url"], "the link was not merged")
    deployment.until_archived("CA1")
    assert deployment.call("CA1")["status"] == "abandoned"

    deployment.redis.hset("session:CA1", mapping={"message:7": message("I am back"), "last_activity_at": time.time()})
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not opened again")
    row = deployment.call("CA1")
    assert (row["status"], row["ended_at"], row["generation"]) == ("in_progress", None, 1)
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1", "I am back"]

    deployment.redis.hset("session:CA1", "status", "completed")
    deployment.until_archived("CA1")
    row = deployment.call("CA1")
    assert (row["status"], row["recording_url"]) == ("completed", "https://example.test/1")
    worker.stop()


def test_nothing_of_an_abandonment_clings_to_a_call_that_was_opened_again(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1)
    deployment.write("CA1", long_silent(call_fields, "CA1"))
    deployment.until_archived("CA1")
    assert deployment.call("CA1")["status"] == "abandoned"
    deployment.redis.hset("session:CA1", mapping={"message:7": message("I am back"), "last_activity_at": time.time()})
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not opened again")
    row = deployment.call("CA1")
    assert (row["status"], row["end_reason"], row["finalized_by"]) == ("in_progress", None, None)

    # A plain request, as from a writer in any language: the call is over, and not for silence.
    deployment.ask("CA1")
    deployment.until_archived("CA1")
    row = deployment.call("CA1")
    assert (row["status"], row["end_reason"]) == ("completed", None)
    worker.stop()


# A sign of life that comes when the sweep has already given the call up, by call SID. Nobody withdraws the request.
def show_life(deployment: Any) -> None:
    client, heartbeat = deployment.redis, {"last_activity_at": str(time.time())}
    client.hset("session:CAheartbeat", mapping=heartbeat)
    client.hset("session:CAmessage", mapping={"message:7": message("I am back"), **heartbeat})
    client.hset("session:CAtimed", "message:7", message("I am back"))
    client.hset("session:CAlarge", mapping={"message:7": message("I am back"), **heartbeat})
    client.hset("session:CAlink", "recording_url", "https://example.test/1")
    client.hset("session:CAended", mapping={"status": "completed", **heartbeat})


ALIVE = ("CAheartbeat", "CAmessage", "CAtimed", "CAlarge")


@pytest.mark.parametrize("moment", ["before the read", "between read and commit", "between commit and release"])
def test_a_call_that_shows_life_while_it_is_being_abandoned_lives_on(
    deployment: Any, proxy_to: Any, call_fields: Any, until: Any, moment: str
) -> None:
    to_archive, archive_url = proxy_to(deployment.database_url)
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(**SWEEPING, DATABASE_URL=archive_url, REDIS_URL=redis_url)
    hold = {
        "before the read": lambda: to_redis.hold("HGETALL"),
        "between read and commit": lambda: to_archive.hold(CALL_ROW, "COMMIT"),
        "between commit and release": lambda: to_redis.hold(RELEASE),
    }[moment]()
    sids = (*ALIVE, "CAlink", "CAended", "CAsilent")
    with deployment.redis.pipeline() as pipeline:
        for sid in sids:
            fields = long_silent(call_fields, sid) | ({"notes": LARGE} if sid == "CAlarge" else {})
            pipeline.hset(f"session:{sid}", mapping=fields)
        pipeline.execute()
    hold.wait()
    assert all(deployment.asked(sid) for sid in sids)
    show_life(deployment)
    hold.let_go()

    deployment.until_archived("CAlink", "CAended", "CAsilent")
    for sid, status in (("CAlink", "abandoned"), ("CAended", "completed"), ("CAsilent", "abandoned")):
        assert deployment.call(sid)["status"] == status, sid
    assert deployment.call("CAlink")["recording_url"]
    for sid in ALIVE:
        until(lambda sid=sid: deployment.state(sid) == "checkpointed", f"{sid} was not opened again")
        row = deployment.call(sid)
        told = (row["status"], row["ended_at"], row["end_reason"], row["finalize_reason"], row["finalized_by"])
        assert told == ("in_progress", None, None, None, None), sid
        until(lambda sid=sid: deployment.asked(sid) is None, f"the request for {sid} was not taken back")
        assert deployment.redis.hmget(f"session:{sid}", "finalize_reason", "finalized_by") == [None, None], sid
        assert deployment.redis.exists(f"session:{sid}"), sid
    assert deployment.said("CAmessage") == ["CAmessage says 0", "CAmessage says 1", "I am back"]

    # They go on for as long as their writers say, and end as any call.
    deployment.ask(*ALIVE)
    deployment.until_archived(*ALIVE)
    for sid in ALIVE:
        row = deployment.call(sid)
        assert (row["status"], row["end_reason"]) == ("completed", None), sid
    worker.stop()


def test_a_call_that_shows_life_beside_late_data_is_opened_again(
    deployment: Any, proxy_to: Any, call_fields: Any, until: Any
) -> None:
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(**SWEEPING, REDIS_URL=redis_url)
    deployment.write("CA1", long_silent(call_fields, "CA1"))
    deployment.until_archived("CA1")
    hold = to_redis.hold(RELEASE)
    deployment.redis.hset("session:CA1", "recording_url", "https://example.test/1")
    hold.wait()
    deployment.redis.hset("session:CA1", mapping={"message:7": message("I am back"), "last_activity_at": time.time()})
    hold.let_go()
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not opened again")
    row = deployment.call("CA1")
    assert (row["status"], row["end_reason"], row["recording_url"]) == ("in_progress", None, "https://example.test/1")
    worker.stop()


# -- a provider that can be asked -------------------------------------------------------------------------------------

ACCOUNT, TOKEN, SID = "AC" + "0" * 32, "opensesame", "CA" + "1" * 32
CALLER, CALLED = "+15550100", "+15550199"


def asking(played: Any) -> dict[str, object]:
    given = {"TWILIO_ACCOUNT_SID": ACCOUNT, "TWILIO_AUTH_TOKEN": TOKEN, "TWILIO_URL": played.url}
    return {**SWEEPING, "IDLE_SECONDS": 1, "ABANDON_SECONDS": 1.5, **given}


def silent(call_fields: Any, sid: str = SID) -> dict[str, str]:
    return {**alive(call_fields, sid), "from_number": CALLER}


def answer(played: Any, status: str, *sids: str) -> None:
    for sid in sids or (SID,):
        said = {"sid": sid, "status": status, "from": CALLER, "to": CALLED, "end_time": None}
        if status == "busy":
            said["end_time"] = "Sat, 21 Nov 2026 10:00:09 +0000"
        played.answers[f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{sid}.json"] = (200, {}, said)


def assert_lives(deployment: Any, sid: str = SID) -> None:
    assert deployment.asked(sid) is None, "somebody asked for its end"
    assert deployment.redis.ttl(f"session:{sid}") == -1, "it may expire"
    row = deployment.call(sid)
    assert (row["status"], row["ended_at"], row["end_reason"]) == ("in_progress", None, None)


def assert_tells_nothing(text: str) -> None:
    basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    for secret in (TOKEN, basic, CALLER, CALLED, CALLER.strip("+"), CALLED.strip("+")):
        assert secret not in text


def test_a_call_lives_for_as_long_as_its_provider_says_so(
    deployment: Any, call_fields: Any, until: Any, played: Any
) -> None:
    answer(played, "in-progress")
    worker = deployment.worker(**asking(played))
    deployment.write(SID, silent(call_fields))
    for times in (1, 2, 3):
        until(lambda times=times: len(played.asked) >= times, "its provider was not asked again")
        until(lambda: deployment.state(SID) == "checkpointed", "it was not checkpointed")
        assert_lives(deployment)
    answer(played, "busy")
    deployment.until_archived(SID)
    row = deployment.call(SID)
    assert (row["status"], row["status_by"], row["to_number"]) == ("busy", "twilio", CALLED)
    assert row["ended_at"].isoformat() == "2026-11-21T10:00:09+00:00"
    assert deployment.redis.keys("session-bridge:asked:*") == []
    worker.stop()
    assert {line["answer"] for line in worker.said("sweep.asked")} == {"live", "ended"}
    assert_tells_nothing(worker.text)


@pytest.mark.parametrize("trouble", ["500", "401", "429", "404", "hang", "away"])
def test_an_outage_of_the_provider_ends_no_call(
    deployment: Any, call_fields: Any, until: Any, played: Any, trouble: str
) -> None:
    said = json.dumps({"sid": SID, "status": "completed", "from": CALLER, "code": 20404})
    played.otherwise = played.hang if trouble == "hang" else (int(trouble) if trouble != "away" else 500, {}, said)
    if trouble == "429":
        played.otherwise = (429, {"Retry-After": "1"}, said)
    worker = deployment.worker(**asking(played), ANSWER_SECONDS=0.5)
    if trouble == "away":
        played.close()
    deployment.write(SID, silent(call_fields))
    until(lambda: worker.said("sweep.asked"), "its provider was not asked")
    until(lambda: deployment.state(SID) == "checkpointed", "it was not checkpointed")
    # Silence that would have ended it twice over.
    for _ in range(30):
        assert_lives(deployment)
        time.sleep(0.1)
    assert {line["answer"] for line in worker.said("sweep.asked")} == {"unknown"}
    worker.stop()
    assert_tells_nothing(worker.text)

    # Nobody to ask any more: the settings say so, and silence decides as ever.
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=1.5)
    deployment.until_archived(SID)
    assert deployment.call(SID)["status"] == "abandoned"
    assert deployment.redis.keys("session-bridge:asked:*") == []
    worker.stop()


def test_two_workers_ask_no_more_than_so_often_a_minute(
    deployment: Any, call_fields: Any, until: Any, played: Any
) -> None:
    sids = [f"CA{number:032x}" for number in range(12)]
    answer(played, "in-progress", *sids)
    settings = {**asking(played), "QUESTIONS_PER_MINUTE": 5, "ABANDON_SECONDS": 2}
    workers = [deployment.worker(**settings), deployment.begin_worker(**settings)]
    workers[1].wait_for("worker.started")
    began = time.monotonic()
    for sid in sids:
        deployment.write(sid, silent(call_fields, sid))
    until(lambda: len(played.asked) >= 5, "nobody was asked")
    # Many sweeps of both, in which all twelve calls are silent for too long.
    for _ in range(60):
        assert len(played.asked) == 5 or time.monotonic() - began > 60
        time.sleep(0.1)
    for sid in sids:
        assert_lives(deployment, sid)
    for worker in workers:
        worker.stop()
        assert_tells_nothing(worker.text)


def test_a_recordings_link_opens_no_abandoned_call_again(deployment: Any, call_fields: Any, until: Any) -> None:
    worker = deployment.worker(**SWEEPING)
    deployment.write("CA1", long_silent(call_fields, "CA1"))
    deployment.until_archived("CA1")
    assert deployment.call("CA1")["status"] == "abandoned"
    late = {
        "recording_sid": "RE1",
        "recording:RE1": json.dumps(
            {"recording_sid": "RE1", "recording_url": "https://example.test/1", "timestamp": time.time()}
        ),
        "cost:1": json.dumps({"service": "llm", "amount_cents": 3}),
        "analysis": json.dumps({"sentiment": "calm"}),
    }
    for drains, (name, value) in enumerate(late.items(), start=1):
        before = deployment.value("SELECT drains FROM call_sids")
        deployment.redis.hset("session:CA1", name, value)
        until(lambda before=before: deployment.value("SELECT drains FROM call_sids") > before, f"{name} did not join")
        deployment.until_archived("CA1")
        row = deployment.call("CA1")
        assert (row["status"], row["generation"]) == ("abandoned", 1), (drains, name)
    worker.stop()
