"""Promise 10: every call SID ever seen is in exactly one place, and what vanished is said to be lost."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from session_bridge.recorder import CallRecorder, Keys

SWEEPING = {"TTL_SECONDS": 3600, "SWEEP_SECONDS": 1}


def test_a_call_that_vanished_is_lost_with_when_it_was_last_seen(deployment: Any, call_fields: Any, until: Any) -> None:
    name = deployment.value("SELECT current_database()")
    deployment.rows(f"ALTER DATABASE {name} SET timezone TO 'Asia/Kolkata'")
    worker = deployment.worker(**SWEEPING)
    began = time.time()
    deployment.write("CA1", call_fields("CA1") | {"started_at": str(began), "last_activity_at": str(began)})
    until(lambda: deployment.state("CA1") == "live", "the sweep did not enter it")
    assert deployment.call("CA1") == {}
    deployment.redis.delete("session:CA1")
    until(lambda: deployment.state("CA1") == "lost", "nobody said that it is lost")
    row = deployment.call("CA1")
    assert (row["status"], row["status_by"], row["generation"]) == ("lost", "inferred", 1)
    seen = deployment.value("SELECT last_seen_at FROM call_sids")
    assert began - 1 < seen.timestamp() < time.time()
    told = row["extra"]["last_seen_at"]
    assert told.endswith("+00:00")
    assert began - 1 < datetime.fromisoformat(told).timestamp() <= seen.timestamp()
    assert worker.wait_for("drain.lost")["level"] == "error"
    until(lambda: deployment.is_gone("CA1"))
    assert deployment.value("SELECT count(*) FROM call_sids") == 1

    # It is found again: then it is no longer lost, and it is the same call.
    deployment.drain("CA1", call_fields("CA1") | {"status": "completed"})
    assert deployment.call("CA1")["status"] == "completed"
    assert deployment.value("SELECT count(*) FROM call_sessions") == 1
    worker.stop()


async def test_a_call_that_vanished_before_any_sweep_saw_it_is_lost_too(
    deployment: Any, redis_url: str, until: Any
) -> None:
    call = CallRecorder("CA1", redis=redis_url, keys=Keys())
    call.record_message("user", "hello")
    assert await call.flush()
    deployment.redis.delete("session:CA1")
    assert deployment.sweep()["missing"] == 1
    assert deployment.state("CA1") == "live"
    worker = deployment.worker()
    until(lambda: deployment.is_gone("CA1"))
    assert deployment.state("CA1") == "lost"
    assert deployment.call("CA1")["status"] == "lost"
    worker.stop()
    await call.end()


def test_a_checkpointed_call_that_vanished_is_lost_with_what_was_saved(
    deployment: Any, call_fields: Any, until: Any
) -> None:
    worker = deployment.worker(**SWEEPING, CHECKPOINT_SECONDS=1)
    fields = call_fields("CA1") | {"started_at": str(time.time()), "last_activity_at": str(time.time())}
    deployment.write("CA1", fields)
    until(lambda: deployment.state("CA1") == "checkpointed", "it was not checkpointed")
    deployment.redis.delete("session:CA1")
    until(lambda: deployment.state("CA1") == "lost", "nobody said that it is lost")
    assert deployment.call("CA1")["status"] == "lost"
    assert deployment.said("CA1") == ["CA1 says 0", "CA1 says 1"]
    worker.stop()


def test_every_call_is_in_exactly_one_place(deployment: Any, call_fields: Any, until: Any) -> None:
    deployment.rows("ALTER TABLE call_messages ADD CONSTRAINT polite CHECK (content <> 'rude')")
    worker = deployment.worker(**SWEEPING, MAX_ATTEMPTS=1)
    now = str(time.time())
    groups: dict[str, list[str]] = {
        place: [f"CA{place}{number}" for number in range(7)] for place in ("archived", "dead", "lost", "live", "due")
    }
    for place, sids in groups.items():
        for sid in sids:
            rude = {"message:1": json.dumps({"role": "user", "content": "rude"})} if place == "dead" else {}
            deployment.write(sid, call_fields(sid) | {"started_at": now, "last_activity_at": now} | rude)
    until(lambda: deployment.value("SELECT count(*) FROM call_sids") == 35, "the sweep did not enter them all")
    deployment.ask(*groups["archived"], *groups["dead"])
    deployment.redis.delete(*[f"session:{sid}" for sid in groups["lost"]])
    later = int(time.time() * 1000) + 3_600_000
    deployment.redis.zadd("session-bridge:ready", dict.fromkeys(groups["due"], later))

    def places() -> dict[str, list[str]]:
        due = set(deployment.redis.zrange("session-bridge:ready", 0, -1))
        found: dict[str, list[str]] = {}
        for sid, state in deployment.rows("SELECT call_sid, state FROM call_sids ORDER BY call_sid"):
            found.setdefault("due" if sid in due else state, []).append(sid)
        return found

    until(lambda: places() == groups, f"the books do not balance: {places()}")
    for sid in groups["live"] + groups["due"]:
        assert len(deployment.fields(sid)) >= 7, sid
    for sid in groups["archived"] + groups["dead"] + groups["lost"]:
        assert not deployment.redis.exists(f"session:{sid}"), sid
    worker.stop()
    status = json.loads(deployment.run("status", "--json").stdout)
    assert {name: status[name] for name in ("archived", "dead", "lost", "later")} == {
        "archived": 7,
        "dead": 7,
        "lost": 7,
        "later": 7,
    }
