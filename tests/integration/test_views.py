"""Views and numbers: what they say of calls, and that a refresh is never in anybody's way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from session_bridge.archive.compatibility import VIEWS, drop_compatibility_views, make_compatibility_views
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.migrations import migrate
from session_bridge.archive.refresh import freshness, refresh_views
from session_bridge.archive.statistics import statistics
from session_bridge.contract import ids
from session_bridge.errors import SchemaError
from session_bridge.tasks import end_tasks
from session_bridge.upkeep import loop as upkeep

NOON = (ids.now() - timedelta(days=2)).replace(hour=12, minute=0, second=0, microsecond=0)


def call(
    agent: str = "Ann", started: datetime = NOON, seconds: int = 60, status: str = "completed", **more: Any
) -> dict[str, Any]:
    return {
        "tenant_id": "acme",
        "agent_id": agent.lower(),
        "agent_name": agent,
        "user_id": "u1",
        "direction": "inbound",
        "from_number": "+15550100",
        "status": status,
        "started_at": started.isoformat(),
        "ended_at": (started + timedelta(seconds=seconds)).isoformat(),
        "message:1": {"role": "user", "content": "hello", "timestamp": (started + timedelta(seconds=2)).isoformat()},
        "message:2": {"role": "assistant", "content": "hi", "timestamp": (started + timedelta(seconds=4)).isoformat()},
        "metric:1": {"metric_type": "user_to_bot_latency", "value": 500},
        "cost:1": {"service": "llm", "amount_cents": 2.5},
        **more,
    }


@pytest.fixture
async def some(bridge: Any) -> Any:
    """Four calls of two agents on two days."""
    await bridge.ask("a", call())
    await bridge.ask("b", call(seconds=120))
    slow: dict[str, Any] = {"metric:1": {"metric_type": "user_to_bot_latency", "value": 900}}
    await bridge.ask("c", call("Bo", status="failed", **slow))
    await bridge.ask("d", call(started=NOON - timedelta(days=1), seconds=30))
    await bridge.drain()
    return bridge


async def test_agents_by_day(some: Any) -> None:
    rows = await some.rows(
        "SELECT day, agent_name, calls, completed_calls, failed_calls, talk_seconds, avg_latency_ms, cost_cents "
        "FROM agent_performance ORDER BY day, agent_name"
    )
    assert [tuple(row.values()) for row in rows] == [
        (NOON.date() - timedelta(days=1), "Ann", 1, 1, 0, 30.0, 500.0, 2.5),
        (NOON.date(), "Ann", 2, 2, 0, 180.0, 500.0, 5),
        (NOON.date(), "Bo", 1, 0, 1, 60.0, 900.0, 2.5),
    ]


async def test_an_empty_archive_has_no_days(bridge: Any) -> None:
    for view in ("agent_performance", "call_analytics", "call_flow", "call_timeline", "active_calls_summary"):
        assert await bridge.rows(f"SELECT * FROM {view}") == []


async def test_a_call_in_one_row(some: Any) -> None:
    await some.ask("a", analysis={"sentiment": "good", "topics": ["greeting"], "success": True})
    await some.drain()
    [row] = await some.rows("SELECT * FROM call_analytics WHERE call_sid = 'a'")
    assert (row["day"], row["hour"], row["duration_seconds"]) == (NOON.date(), 12, 60)
    assert (row["sentiment"], row["topics"], row["success"]) == ("good", ["greeting"], True)
    assert row["cost_cents_per_minute"] == 2.5


async def test_the_way_through_the_workflow(bridge: Any) -> None:
    steps: dict[str, Any] = {
        "transition:1": {"from_node_id": "n1", "from_node_name": "Greeting", "to_node_id": "n2", "to_node_name": "Ask"},
        "transition:2": {"from_node_id": "n2", "to_node_id": "n1", "reason": "again"},
        "transition:3": {"to_node_id": "end"},
    }
    await bridge.ask("a", call(**steps))
    await bridge.drain()
    [flow] = await bridge.rows("SELECT * FROM call_flow")
    assert (flow["path"], flow["transitions"]) == ("Greeting → Ask → n1 → end", 3)
    assert flow["nodes"] == ["n1", "n2", "n1", "end"]
    assert flow["reasons"] == [None, "again", None]


async def test_everything_of_a_call_in_the_order_of_time(bridge: Any) -> None:
    def at(seconds: int) -> str:
        return (NOON + timedelta(seconds=seconds)).isoformat()

    events: dict[str, Any] = {
        "tool:1": {"name": "book", "arguments": {"table": 2}, "timestamp": at(3)},
        "transition:1": {"from_node_id": "a", "to_node_id": "b", "timestamp": at(5)},
        "participant:1": {"identity": "caller", "joined_at": at(1), "left_at": at(50)},
        "rag:1": {"query_text": "menu", "timestamp": at(6)},
        "extraction:1": {"variables_requested": ["n"], "variables_extracted": {"n": 2}, "timestamp": at(7)},
        "interruption:1": {"interrupted_at_turn": 2, "timestamp": at(8)},
        "recording:1": {"recording_sid": "RE1", "timestamp": at(61)},
        "odd:1": {"x": 1, "timestamp": at(9)},
        "metric:1": {"metric_type": "stt_delay", "value": 80, "timestamp": at(10)},
        "cost:1": {"service": "llm", "amount_cents": 1, "timestamp": at(11)},
    }
    await bridge.ask("a", call(**events))
    await bridge.drain()
    rows = await bridge.rows("SELECT * FROM call_timeline WHERE session_id = session_id_of('a')")
    told = [(int((row["at"] - NOON).total_seconds()), row["kind"], row["what"]) for row in rows]
    assert told == [
        (0, "call", "started"),
        (1, "participant", "caller joined"),
        (2, "message", "user: hello"),
        (3, "tool", "book"),
        (4, "message", "assistant: hi"),
        (5, "transition", "a → b"),
        (6, "retrieval", "menu"),
        (7, "extraction", '{"n": 2}'),
        (8, "interruption", "in turn 2"),
        (9, "odd", "1"),
        (10, "metric", "stt_delay 80"),
        (11, "cost", "llm"),
        (50, "participant", "caller left"),
        (60, "call", "ended"),
        (61, "recording", "RE1"),
    ]
    assert {row["tenant_id"] for row in rows} == {"acme"}


async def test_active_calls(bridge_with: Any) -> None:
    bridge = await bridge_with(checkpoint_seconds=1, idle_seconds=1)
    await bridge.write("live", call(status="in-progress", ended_at=""))
    await bridge.bridge.sweeper.sweep(limit=10)
    [row] = await bridge.rows("SELECT * FROM active_calls_summary")
    assert (row["call_sid"], row["state"], row["total_messages"]) == ("live", "live", None)
    assert row["running_seconds"] == pytest.approx((ids.now() - NOON).total_seconds(), abs=60)
    await bridge.ask("live", status="completed")
    await bridge.drain()
    assert await bridge.rows("SELECT * FROM active_calls_summary") == []


# -- kept ready -------------------------------------------------------------------------------------------------------


async def test_a_refresh_brings_the_numbers_up_to_date(some: Any) -> None:
    assert await some.rows("SELECT * FROM conversation_metrics") == []
    connections = some.bridge.connections
    assert set(await refresh_views(connections)) == {"conversation_metrics", "performance_stats"}
    rows = await some.rows(
        "SELECT day, tenant_id, calls, failed_calls, talk_seconds FROM conversation_metrics ORDER BY 1"
    )
    assert [tuple(row.values()) for row in rows] == [
        (NOON.date() - timedelta(days=1), "acme", 1, 0, 30.0),
        (NOON.date(), "acme", 3, 1, 240.0),
    ]
    rows = await some.rows("SELECT hour, agent_id, calls, p50_latency_ms FROM performance_stats ORDER BY 1, 2")
    assert [tuple(row.values()) for row in rows] == [
        (NOON - timedelta(days=1), "ann", 1, 500.0),
        (NOON, "ann", 2, 500.0),
        (NOON, "bo", 1, 900.0),
    ]
    assert await refresh_views(connections, older_than=3600) == {}, "they are fresh"
    for one in await freshness(connections):
        assert one.seconds > 0
        assert ids.now() - one.refreshed_at < timedelta(minutes=5)


async def test_ids_as_long_as_they_may_be_keep_no_refresh_from_ending(bridge: Any) -> None:
    draw = random.Random(1)  # nothing that PostgreSQL could compress
    longest, too_long = (
        "".join(chr(draw.randrange(0x1F300, 0x1FAFF)) for _ in range(length)) for length in (255, 2000)
    )
    await bridge.ask("a", call(agent_id=longest, tenant_id=longest, user_id=longest))
    await bridge.ask("b", call(agent_id=too_long))
    await bridge.drain()
    assert len(await refresh_views(bridge.bridge.connections)) == 2
    assert await bridge.rows("SELECT tenant_id, agent_id FROM performance_stats ORDER BY tenant_id") == [
        {"tenant_id": "acme", "agent_id": ""},
        {"tenant_id": longest, "agent_id": longest},
    ]
    assert await bridge.rejects("b") == {b"agent_id": too_long.encode()}


async def test_one_refresh_at_a_time_also_without_session_locks(some: Any, database_url: str) -> None:
    connections = some.bridge.connections
    with psycopg.connect(database_url) as other:
        # In its transaction, as behind PgBouncer in transaction mode: what was taken is given back at its end.
        assert len(other.execute("SELECT * FROM refresh_archive_views()").fetchall()) == 2
        assert await refresh_views(connections) == {}, "another one runs"
        other.rollback()
        assert len(await refresh_views(connections)) == 2


async def test_upkeep_ends_though_a_wait_swallowed_the_cancellation(some: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def refresh(connections: ArchiveConnections, older_than: float) -> dict[str, float]:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await refresh_views(connections, older_than)

    monkeypatch.setattr(upkeep, "refresh_views", refresh)
    keeping = asyncio.create_task(upkeep.keep_up(some.bridge.settings, None))
    await begun.wait()
    async with asyncio.timeout(20):
        await end_tasks(keeping)
    assert keeping.cancelled()


async def test_a_refresh_by_hand_is_left_alone_and_readers_wait_for_none(some: Any, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY performance_stats")
        began = time.monotonic()
        assert set(await refresh_views(some.bridge.connections)) == {"conversation_metrics"}
        assert time.monotonic() - began < 30, "it does not wait for the end of the other"
        assert len(await some.rows("SELECT * FROM conversation_metrics")) == 2
        assert await some.rows("SELECT * FROM performance_stats") == [], "what was there before, while it runs"


async def test_two_archives_in_one_database_refresh_each_its_own(database_url: str) -> None:
    migrate(database_url, "other")
    with psycopg.connect(database_url) as one, psycopg.connect(database_url) as two:
        assert len(one.execute("SELECT * FROM refresh_archive_views()").fetchall()) == 2
        assert len(two.execute("SELECT * FROM other.refresh_archive_views()").fetchall()) == 2


# -- of a user, and of everybody --------------------------------------------------------------------------------------


async def test_a_users_numbers(some: Any) -> None:
    await some.ask("e", call(user_id="u2"))
    await some.drain()
    [row] = await some.rows("SELECT * FROM get_conversation_stats('u1', 30)")
    assert (row["calls"], row["completed_calls"], row["talk_seconds"], row["cost_cents"]) == (4, 3, 270.0, 10)
    assert row["last_call_at"] == NOON
    assert sum(row["outcomes"].values()) == 4
    [row] = await some.rows("SELECT * FROM get_conversation_stats('nobody')")
    assert (row["calls"], row["talk_seconds"], row["outcomes"]) == (0, None, {})


async def test_statistics_have_every_day_and_hour(some: Any) -> None:
    connections = some.bridge.connections
    midnight = NOON.replace(hour=0)
    found = await statistics(connections, midnight - timedelta(days=2), midnight + timedelta(days=1), "day")
    assert list(found.parts) == [f"{midnight - timedelta(days=days):%Y-%m-%d}" for days in (2, 1, 0)]
    assert [numbers.calls for numbers in found.parts.values()] == [0, 1, 3]
    assert (found.total.calls, found.total.failed, found.total.cost_cents) == (4, 1, Decimal(10))
    found = await statistics(connections, midnight, midnight + timedelta(days=1), "hour")
    assert [numbers.calls for numbers in found.parts.values()] == [0] * 12 + [3] + [0] * 11
    found = await statistics(connections, midnight - timedelta(days=9), ids.now(), "agent")
    assert [(name, numbers.calls) for name, numbers in found.parts.items()] == [("Ann", 3), ("Bo", 1)]
    assert found.parts["Bo"].avg_latency_ms == 900
    found = await statistics(connections, midnight - timedelta(days=9), ids.now(), "agent", tenant="bolt")
    assert (found.total.calls, found.parts) == (0, {})
    found = await statistics(connections, datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC), "agent")
    assert found.total.calls == 0


# -- older names ------------------------------------------------------------------------------------------------------


async def test_views_of_older_names(some: Any) -> None:
    weird = 'a "weird" schema'
    connections = some.bridge.connections
    for _ in range(2):
        await make_compatibility_views(connections, weird)
    quoted = '"a ""weird"" schema"'
    [row] = await some.rows(f"SELECT * FROM {quoted}.calls WHERE call_sid = 'b'")
    assert row["full_transcript"] == "user: hello\nassistant: hi"
    assert (row["duration"], row["cost_cents"], row["phone_number"]) == (120, 2.5, "+15550100")
    counts = {view: len(await some.rows(f"SELECT * FROM {quoted}.{view}")) for view in VIEWS}
    assert counts == {"calls": 4, "voice_calls": 4, "voice_messages": 8, "call_logs": 4, "conversations": 4}
    options = await some.rows(
        "SELECT reloptions FROM pg_class WHERE relkind = 'v' AND relnamespace::regnamespace::text = %s", quoted
    )
    assert [row["reloptions"] for row in options] == [["security_invoker=true"]] * 5
    assert await drop_compatibility_views(connections, weird)
    assert not await drop_compatibility_views(connections, weird)


async def test_views_of_older_names_touch_nothing_that_is_not_ours(some: Any) -> None:
    connections = some.bridge.connections
    async with connections.transaction() as connection:
        await connection.execute("CREATE SCHEMA theirs")
        await connection.execute("CREATE TABLE theirs.calls (id integer)")
    with pytest.raises(SchemaError, match=r"theirs has a calls of its own.*--schema"):
        await make_compatibility_views(connections, "theirs")
    with pytest.raises(SchemaError, match=r"schema of their own.*--schema"):
        await make_compatibility_views(connections, "public")
    assert not await drop_compatibility_views(connections, "theirs")


async def test_migrate_down_takes_the_views_of_older_names_away(some: Any, database_url: str) -> None:
    await make_compatibility_views(some.bridge.connections, "compat")
    migrate(database_url, to=0)
    assert await some.rows("SELECT * FROM pg_views WHERE schemaname = 'compat'") == []


def test_every_view_asks_with_the_rights_of_its_reader(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        views = connection.execute(
            "SELECT relname, reloptions FROM pg_class WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
    assert len(views) >= 6
    others = {name for name, options in views if options != ["security_invoker=true"]}
    # These stand before materialized views, which a reader may not read: they filter by the reader's tenant themselves.
    assert others == {"tenant_conversation_metrics", "tenant_performance_stats"}
