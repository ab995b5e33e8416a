"""Promise 3: any number of drains, at once, repeated or killed, leave the rows of one, and the newest reading wins."""

from __future__ import annotations

import json
import threading
from typing import Any

import psycopg
import pytest
from psycopg import sql

from deployments import CALL_ROW
from session_bridge.archive.tables import CHILDREN
from session_bridge.live.scripts import Script

RELEASE = Script.load("release").digest
WRITE = (CALL_ROW,)
AT = 1_763_632_800
TABLES = {table.name: table.columns for table in CHILDREN} | {
    "call_session_rejects": ("digest", "field", "reason", "raw")
}


def whole_call() -> dict[str, str]:
    """A call that has something for every table."""
    events: dict[str, dict[str, object]] = {
        "message:1": {"role": "user", "content": "hello", "timestamp": AT},
        "message:2": {"role": "assistant", "content": "hi", "timestamp": AT + 1, "confidence": 0.1, "mood": [1, "x"]},
        "transition:1": {"to_node_id": "n1", "timestamp": AT},
        "metric:1": {"metric_type": "llm_ttfb", "value": 0.234, "unit": "s", "timestamp": AT},
        "rag:1": {
            "query_text": "opening hours",
            "timestamp": AT,
            "query_params": {"k": 1.50},
            "chunks": [{"content": "nine to five", "score": 0.7, "chunk_id": "c1"}, {"content": "closed", "x": 1}],
        },
        "extraction:1": {"variables_requested": ["a"], "variables_extracted": {"a": 1e3}, "timestamp": AT},
        "interruption:1": {"interrupted_at_turn": 2, "timestamp": AT},
        "tool:1": {"name": "book", "arguments": {"b": 1, "a": 2}, "output": "done", "timestamp": AT},
        "participant:1": {"identity": "caller", "joined_at": AT, "left_at": AT + 9},
        "cost:1": {"service": "llm", "amount_cents": "0.1234567891", "timestamp": AT},
        "cost:2": {"service": "tts", "amount_cents": 1.5, "timestamp": AT},
        "recording:1": {"recording_sid": "RE1", "recording_url": "https://example.test/1", "timestamp": AT},
        "sentiment:1": {"label": "glad", "at": AT},
    }
    return {
        "provider": "twilio",
        "tenant_id": "t1",
        "status": "completed",
        "started_at": str(AT),
        "ended_at": str(AT + 10),
        "last_activity_at": str(AT + 10),
        "collected_data": json.dumps({"z": 1, "a": {"nested": [1.0, None]}}),
        "analysis": json.dumps({"sentiment": "positive", "topics": ["hours"], "score": 0.5}),
        "wrong_time": "2026-13-45",
        "message:bad": "{not json",
        **{name: json.dumps(event) for name, event in events.items()},
    }


def children(deployment: Any, sid: str, column: str = "") -> dict[str, list[tuple[Any, ...]]]:
    """All rows of a call by table, without its session id; or one column of them."""
    found = {}
    of_the_call = "session_id IN (SELECT session_id FROM call_sids WHERE call_sid = %s)"
    with psycopg.connect(deployment.database_url) as connection:
        for name, columns in TABLES.items():
            wanted = [sql.SQL(column)] if column else [sql.Identifier(c) for c in columns if c != "session_id"]
            query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
                sql.SQL(", ").join(wanted),
                sql.Identifier(name),
                sql.SQL(of_the_call),
                sql.SQL("ctid" if column else "1, 2"),
            )
            found[name] = [tuple(map(repr, row)) for row in connection.execute(query, (sid,))]
    return found


def test_an_identical_second_drain_leaves_every_child_row_untouched(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", whole_call())
    rows, versions = children(deployment, "CA1"), children(deployment, "CA1", "xmin")
    assert all(rows.values()), [name for name, found in rows.items() if not found]
    [before] = deployment.rows("SELECT to_jsonb(c) - 'archived_at' - 'drains' FROM call_sessions c")

    for _ in range(2):
        deployment.drain("CA1", whole_call())
    assert children(deployment, "CA1", "xmin") == versions
    assert children(deployment, "CA1") == rows
    assert deployment.rows("SELECT to_jsonb(c) - 'archived_at' - 'drains' FROM call_sessions c") == [before]
    assert deployment.rows("SELECT drains, generation FROM call_sids") == [(3, 1)]
    worker.stop()


def test_what_comes_late_touches_no_row_that_it_leaves_as_it_is(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", whole_call())
    query = "SELECT event_id, {} FROM {} ORDER BY {}"
    tables = {
        "call_messages": ("sequence", "event_id"),
        "call_rag_chunks": ("score", "event_id, chunk_rank"),
        "call_tool_calls": ("sequence", "event_id"),
        "call_metrics": ("value", "event_id"),
    }

    def versions() -> dict[str, list[tuple[Any, ...]]]:
        return {name: deployment.rows(query.format("xmin::text", name, key)) for name, (_, key) in tables.items()}

    before = versions()
    late = {
        "message:between": {"role": "user", "content": "when?", "timestamp": AT + 0.5},
        "rag:1": {
            "query_text": "opening hours",
            "timestamp": AT,
            "query_params": {"k": 1.50},
            "chunks": [{"content": "nine to five", "score": 0.9, "chunk_id": "c1"}, {"content": "closed", "x": 1}],
        },
        "tool:2": {"name": "call", "timestamp": AT + 5},
    }
    deployment.drain("CA1", {name: json.dumps(event) for name, event in late.items()})
    touched = {name: [row[0] for row in found if row not in before[name]] for name, found in versions().items()}
    assert touched == {
        # The second message is now the third.
        "call_messages": ["2", "between"],
        "call_rag_chunks": ["1"],
        "call_tool_calls": ["2"],
        "call_metrics": [],
    }
    found = {name: deployment.rows(query.format(column, name, key)) for name, (column, key) in tables.items()}
    assert found["call_messages"] == [("1", 1), ("2", 3), ("between", 2)]
    assert found["call_rag_chunks"] == [("1", 0.9), ("1", None)]
    assert found["call_tool_calls"] == [("1", 1), ("2", 2)]
    worker.stop()


def test_many_drains_at_once_by_several_workers_leave_the_rows_of_one(deployment: Any, until: Any) -> None:
    workers = [deployment.begin_worker(CONCURRENCY=4, BATCH_SIZE=1) for _ in range(4)]
    for worker in workers:
        worker.wait_for("worker.started")
    deployment.drain("CAonce", whole_call())

    enough = threading.Event()

    def insist() -> None:
        while not enough.wait(0.002):
            deployment.redis.hset("session:CAmany", mapping=whole_call())
            # Over the lease of whoever has it: the next worker takes it at once.
            deployment.redis.zadd("session-bridge:ready", {"CAmany": 0})

    writers = [threading.Thread(target=insist) for _ in range(2)]
    for thread in writers:
        thread.start()
    drains = "SELECT coalesce(max(drains), 0) FROM call_sids WHERE call_sid = 'CAmany'"
    try:
        until(lambda: deployment.value(drains) >= 10, "ten drains did not come together")
    finally:
        enough.set()
    for thread in writers:
        thread.join()
    deployment.until_archived("CAmany")
    assert children(deployment, "CAmany") == children(deployment, "CAonce")
    assert deployment.value("SELECT count(*) FROM call_sessions WHERE call_sid = 'CAmany'") == 1
    for worker in workers:
        worker.stop()


@pytest.mark.parametrize("archived_before", [False, True], ids=["a new call", "a call archived before"])
def test_a_drain_that_read_early_and_wrote_late_overwrites_nothing(
    deployment: Any, proxy_to: Any, call_fields: Any, until: Any, archived_before: bool
) -> None:
    def said(content: str) -> dict[str, str]:
        return {"started_at": str(AT), "message:1": json.dumps({"role": "user", "content": content})}

    to_archive, archive_url = proxy_to(deployment.database_url)
    late = deployment.worker(DATABASE_URL=archive_url)
    if archived_before:
        deployment.drain("CA1", {"started_at": str(AT), "provider": "plivo"})
    # A new call is entered into the book first; for one that is there, its row is locked first.
    writing = to_archive.hold("INSERT INTO call_sids" if not archived_before else "FOR UPDATE")
    deployment.write("CA1", said("hel"))
    deployment.ask("CA1")
    writing.wait()

    deployment.redis.hset("session:CA1", mapping=said("hello world"))
    early = deployment.worker()
    deployment.redis.zadd("session-bridge:ready", {"CA1": 0})
    deployment.until_archived("CA1")
    assert deployment.said("CA1") == ["hello world"]
    drains = deployment.value("SELECT drains FROM call_sids")

    writing.let_go()
    # The late drain has ended when a later request is served by the worker that ran it.
    early.stop()
    deployment.drain("CA2", call_fields("CA2"))
    assert deployment.said("CA1") == ["hello world"]
    assert deployment.value("SELECT drains FROM call_sids WHERE call_sid = 'CA1'") == drains
    late.stop()
    assert deployment.is_gone("CA1")


MOMENTS = {
    "claimed": ("archive", ("BEGIN",)),
    "read": ("redis", ("HGETALL",)),
    "writing": ("archive", WRITE),
    "written": ("archive", (*WRITE, "COMMIT")),
    "committed": ("redis", (RELEASE,)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_drain_killed_at_any_instant_is_made_good_within_one_lease(
    deployment: Any, proxy_to: Any, until: Any, moment: str
) -> None:
    to_archive, archive_url = proxy_to(deployment.database_url)
    to_redis, redis_url = proxy_to(deployment.redis_url)
    worker = deployment.worker(DATABASE_URL=archive_url, REDIS_URL=redis_url, LEASE_SECONDS=2)
    other = deployment.begin_worker(LEASE_SECONDS=2)
    deployment.drain("CAonce", whole_call())
    where, patterns = MOMENTS[moment]
    hold = (to_archive if where == "archive" else to_redis).hold(*patterns)
    while not hold.reached:  # until it is this worker that takes a call
        deployment.write("CAkilled", whole_call())
        deployment.ask("CAkilled")
        until(lambda: hold.reached or deployment.is_gone("CAkilled"))
    worker.kill()
    hold.cut()

    deployment.until_archived("CAkilled", seconds=2 + 1.5)
    assert children(deployment, "CAkilled") == children(deployment, "CAonce")
    assert deployment.value("SELECT count(*) FROM call_sessions") == 2
    assert not deployment.redis.hgetall("session-bridge:in-hand")
    other.stop()
