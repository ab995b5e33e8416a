"""Promise 11: a backlog drains in bulk, and the sweep does not mind who else uses the Redis."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def test_a_backlog_drains_in_bulk_and_in_bounded_memory(deployment: Any, call_fields: Any) -> None:
    sids = [f"CA{number}" for number in range(2000)]
    pipeline = deployment.redis.pipeline(transaction=False)
    for sid in sids:
        pipeline.hset(f"session:{sid}", mapping=call_fields(sid))
    pipeline.zadd("session-bridge:ready", dict.fromkeys(sids, 0))
    pipeline.execute()
    worker = deployment.begin_worker()
    worker.wait_for("worker.started")
    began = time.monotonic()
    while deployment.redis.zcard("session-bridge:ready"):
        assert time.monotonic() - began < 30, "that is no bulk"
        time.sleep(0.02)
    assert deployment.rows("SELECT state, max(drains), count(*) FROM call_sids GROUP BY state") == [
        ("archived", 1, 2000)
    ]
    assert deployment.value("SELECT count(*) FROM call_messages") == 4000
    assert not deployment.redis.keys("session:*")
    # Fifty calls a transaction and not one: PostgreSQL gives each its own id. A few are drained apart from their batch,
    # because the sweep entered them in the book in that moment.
    assert deployment.value("SELECT count(DISTINCT xmin::text) FROM call_sids") <= 2 * 2000 / 50
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    [peak] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    assert int(peak.split()[1]) < 300 * 1024, peak
    worker.stop()


def test_the_sweep_passes_twenty_thousand_keys_of_others_by(deployment: Any, call_fields: Any) -> None:
    pipeline = deployment.redis.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.set(f"cache:{number}", "x", ex=900 + number % 7)
        pipeline.hset(f"basket:{number}", mapping={"status": "completed", "started_at": "1", "provider": "shop"})
    pipeline.execute()
    for sid in ("CA1", "CA2", "CA3"):
        deployment.write(sid, call_fields(sid) | {"status": "completed"}, ttl=900)

    before = deployment.redis.info("commandstats")
    began = time.monotonic()
    report = deployment.sweep()
    assert time.monotonic() - began < 10
    after = deployment.redis.info("commandstats")
    assert (report["sessions"], report["rescued"], report["foreign"]) == (3, 3, 0)

    # It has gone by: nothing but SCAN has met them.
    def calls(name: str) -> int:
        return int(after.get(f"cmdstat_{name}", {"calls": 0})["calls"]) - int(
            before.get(f"cmdstat_{name}", {"calls": 0})["calls"]
        )

    assert calls("scan") <= 25
    assert max(calls(name) for name in ("hgetall", "hmget", "hkeys", "pttl", "persist", "hlen")) <= 10
    assert deployment.redis.dbsize() >= 20_003
    assert deployment.redis.ttl("cache:77") > 800
    assert {sid: deployment.redis.ttl(f"session:{sid}") for sid in ("CA1", "CA2", "CA3")} == dict.fromkeys(
        ("CA1", "CA2", "CA3"), -1
    )


def test_a_sweep_takes_no_more_than_its_limit_and_says_what_it_left(deployment: Any, call_fields: Any) -> None:
    for number in range(20):
        deployment.write(f"CA{number}", call_fields(f"CA{number}") | {"status": "completed"})
    assert deployment.run("sweep", "--limit", "5", "--dry-run").returncode == 0
    assert deployment.redis.zcard("session-bridge:ready") == 0
    done = deployment.run("sweep", "--limit", "5")
    assert "15 sessions were left" in done.stdout
    assert deployment.redis.zcard("session-bridge:ready") == 5
    report = deployment.sweep(SWEEP_LIMIT=10)
    assert (report["rescued"], report["left"]) == (10, 5)
