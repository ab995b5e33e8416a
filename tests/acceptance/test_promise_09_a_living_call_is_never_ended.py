"""Promise 9: silence is not an end; only a long one closes a call, and a sign of life opens it again."""

from __future__ import annotations

import json
import time
from typing import Any

SWEEPING = {"TTL_SECONDS": 3600, "SWEEP_SECONDS": 1}


def alive(call_fields: Any, sid: str) -> dict[str, str]:
    now = str(time.time())
    return {**call_fields(sid), "started_at": now, "last_activity_at": now}


def message(content: str) -> str:
    return json.dumps({"role": "user", "content": content, "timestamp": time.time()})


def test_a_call_with_heartbeats_lives_on(deployment: Any, call_fields: Any) -> None:
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=1.5, CHECKPOINT_SECONDS=1)
    deployment.write("CA1", alive(call_fields, "CA1"))
    for _ in range(30):
        deployment.redis.hset("session:CA1", "last_activity_at", str(time.time()))
        time.sleep(0.15)
        assert deployment.asked("CA1") is None, "somebody asked for its end"
        assert deployment.redis.exists("session:CA1")
    # It is long enough to be written down meanwhile, as a call that goes on.
    assert deployment.state("CA1") == "checkpointed"
    row = deployment.call("CA1")
    assert (row["status"], row["ended_at"], row["end_reason"]) == ("in_progress", None, None)
    worker.stop()


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
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=2.5)
    deployment.write("CA1", alive(call_fields, "CA1"))
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not checkpointed")
    deployment.until_archived("CA1")
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
    worker = deployment.worker(**SWEEPING, IDLE_SECONDS=1, ABANDON_SECONDS=3.5)
    deployment.write("CA1", alive(call_fields, "CA1"))
    until(lambda: deployment.state("CA1") == "archived", "it was not abandoned")
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
