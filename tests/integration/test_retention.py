"""Retention on real servers: months go and come back, while drains run, and late data raises nobody."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from session_bridge.archive.book import tombstones
from session_bridge.archive.erasure import Erased, Person, erase_calls
from session_bridge.archive.migrations import migrate
from session_bridge.archive.partitions import ensure_partitions
from session_bridge.contract import ids
from session_bridge.errors import ExportError
from session_bridge.settings import load_settings
from session_bridge.upkeep.erasure import erase
from session_bridge.upkeep.retention import plan, restore, retire

OLD = datetime(2024, 3, 10, 12, tzinfo=UTC)
MONTH = date(2024, 3, 1)


def fields(moment: datetime, **more: object) -> dict[str, Any]:
    """A call with something in every table."""
    at = moment.timestamp()
    return {
        "provider": "twilio",
        "status": "completed",
        "started_at": str(at),
        "ended_at": str(at + 60),
        "from_number": "+15550100",
        "estimated_cost_cents": "12.3456789012",
        "collected_data": {"party": 2, "name": "Zoë \u2603"},
        "metadata": {"deep": [1, {"a": None}]},
        "analysis": {"sentiment": "good", "topics": ["a"]},
        "objections_encountered": ["price"],
        "unknown": "kept",
        "message:1": {"role": "user", "content": "hello", "timestamp": at, "confidence": 0.1},
        "message:2": {"role": "user", "content": "nul \x00 in it"},
        "message:3": "not JSON",
        "transition:1": {"to_node_id": "n"},
        "metric:1": {"metric_type": "llm_ttfb", "value": 3.25},
        "rag:1": {"query_text": "q", "chunks": [{"content": "chunk text", "score": 0.5}, {"content": f"of {moment}"}]},
        "extraction:1": {"variables_requested": ["x"], "variables_extracted": {"x": 1}},
        "interruption:1": {"interrupted_at_turn": 1},
        "tool:1": {"name": "t", "arguments": {"a": [1]}, "output": "o"},
        "participant:1": {"identity": "p", "joined_at": at, "left_at": at + 5},
        "cost:1": {"service": "llm", "amount_cents": "0.0000000001"},
        "recording:1": {"recording_url": "https://example.test/r"},
        "gesture:1": {"what": "wave"},
        **more,
    }


async def age(bridge: Any, sid: str, moment: datetime) -> None:
    """Make a call that was archived now one of an earlier month: no drain today would believe such a start."""
    [row] = await bridge.rows("SELECT session_id FROM call_sids WHERE call_sid = %s", sid)
    old, new = row["session_id"], ids.uuid7(moment)
    tables = await bridge.rows("SELECT table_name, key_column FROM call_tables() WHERE key_type = 'uuid'")
    for table in [*tables, {"table_name": "call_sids", "key_column": "session_id"}]:
        update = sql.SQL("UPDATE {0} SET {1} = %s WHERE {1} = %s RETURNING 1")
        names = sql.Identifier(table["table_name"]), sql.Identifier(table["key_column"])
        await bridge.rows(update.format(*names), new, old)
    await bridge.rows(
        "INSERT INTO rag_chunk_contents SELECT DISTINCT %s::date, tenant_id, content_hash, content "
        "FROM rag_chunk_contents ON CONFLICT DO NOTHING RETURNING 1",
        moment.date().replace(day=1),
    )
    if moment.date() < ids.now().date() - timedelta(days=60):
        await bridge.rows("DELETE FROM rag_chunk_contents WHERE month <> %s RETURNING 1", MONTH)


async def contents(bridge: Any) -> dict[str, list[str]]:
    """Every row of every table of calls, as text that shows each column whole."""
    tables = [row["table_name"] for row in await bridge.rows("SELECT table_name FROM call_tables()")]
    found = {}
    for table in [*tables, "call_sids", "dead_session_fields"]:
        rows = await bridge.rows(
            sql.SQL("SELECT t::text AS line FROM {} AS t ORDER BY 1").format(sql.Identifier(table))
        )
        found[table] = [row["line"] for row in rows]
    return found


@pytest.fixture
async def aged(bridge: Any) -> Any:
    """Two calls of March 2024, one of them dead as well, and one of today."""
    for sid in ("CA1", "CA2"):
        await bridge.ask(sid, fields(OLD))
    await bridge.redis.set("session:CA3", "no hash")
    await bridge.redis.zadd("session-bridge:ready", {"CA3": 0})
    await bridge.drain()
    await bridge.rows(
        "INSERT INTO dead_session_fields SELECT id, '\\x01', '\\x00ff', '\\xdeadbeef' FROM dead_sessions RETURNING 1"
    )
    await bridge.rows("SELECT create_monthly_partition(table_name, %s) FROM call_tables() WHERE by_month", MONTH)
    for place, sid in enumerate(("CA1", "CA2", "CA3")):
        await age(bridge, sid, OLD + timedelta(hours=place))
    await bridge.redis.delete("session:CA3")
    await bridge.ask("CA9", fields(ids.now() - timedelta(minutes=5)))
    await bridge.drain()
    return bridge


def settings_of(bridge: Any) -> Any:
    return bridge.bridge.settings


async def partitions_of(bridge: Any, month: date) -> int:
    query = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE %s"
    [row] = await bridge.rows(query, f"%\\_y{month:%Y}m{month:%m}")
    return int(row["count"])


async def test_old_months_go_with_all_that_belongs_to_them(aged: Any) -> None:
    assert [(one.month, one.calls) for one in await plan(settings_of(aged), 12)] == [(MONTH, 3)]
    before = await contents(aged)
    [one] = await retire(settings_of(aged), 12, None)
    assert (one.month, one.calls, one.busy, one.exported_to) == (MONTH, 3, [], None)
    after = await contents(aged)
    assert await partitions_of(aged, MONTH) == 0
    for table in ("call_sessions", "call_messages", "call_journal", "rag_chunk_contents", "call_session_rejects"):
        assert len(before[table]) > len(after[table]) > 0, table
    assert after["dead_sessions"] == after["dead_session_fields"] == []
    assert [row["call_sid"] for row in await aged.rows("SELECT call_sid FROM call_sessions")] == ["CA9"]
    states = await aged.rows("SELECT state, status, tenant_id, count(*) FROM call_sids GROUP BY 1, 2, 3 ORDER BY 1")
    assert [(row["state"], row["count"]) for row in states] == [("archived", 1), ("retired", 3)]
    assert not await aged.rows("SELECT 1 FROM call_sids WHERE call_sid IN ('CA1', 'CA2', 'CA3')")
    assert await retire(settings_of(aged), 12, None) == []


async def test_every_column_survives_the_way_to_parquet_and_back(aged: Any, tmp_path: Path) -> None:
    before = await contents(aged)
    [one] = await retire(settings_of(aged), 12, tmp_path)
    folder = tmp_path / "2024-03"
    assert one.exported_to == str(folder)
    assert (
        sum(one.rows.values())
        == sum(len(rows) for rows in before.values()) - sum(len(rows) for rows in (await contents(aged)).values()) + 3
    )  # the tombstones
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == one.rows
    came = await restore(settings_of(aged), folder, (ids.now() + timedelta(days=9)).date())
    assert came == one.rows
    assert await contents(aged) == before
    # It is kept for a while, and a second time changes nothing.
    assert await plan(settings_of(aged), 12) == []
    assert sum((await restore(settings_of(aged), folder, ids.now().date())).values()) == 0
    assert await contents(aged) == before
    # Late data joins again, and the next retention writes another folder.
    await aged.ask("CA1", {"recording_sid": "RE1"})
    await aged.drain()
    assert (await aged.call("CA1"))["recording_sid"] == "RE1"
    await aged.rows("UPDATE retired_months SET keep_until = current_date - 1 RETURNING 1")
    [again] = await retire(settings_of(aged), 12, tmp_path)
    assert again.exported_to == str(tmp_path / "2024-03.2")


async def test_types_in_the_files(aged: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    await retire(settings_of(aged), 12, tmp_path)
    calls = pq.read_table(tmp_path / "2024-03" / "call_sessions.parquet")
    types = {kind.name: str(kind.type) for kind in calls.schema}
    assert types["estimated_cost_cents"] == "decimal128(24, 10)"
    assert types["archived_at"] == "timestamp[us, tz=UTC]"
    assert types["metadata"] == "string"
    assert str(calls["estimated_cost_cents"][0].as_py()) == "12.3456789012"
    rejects = pq.read_table(tmp_path / "2024-03" / "call_session_rejects.parquet")
    assert b"not JSON" in rejects["raw"].to_pylist()


async def test_a_call_erased_since_the_export_does_not_come_back(aged: Any, tmp_path: Path) -> None:
    await retire(settings_of(aged), 12, tmp_path)
    receipt = await erase(aged.bridge, call_sids=["CA1"])
    assert receipt.exported_months == [{"month": "2024-03", "folder": str(tmp_path / "2024-03")}]
    await restore(settings_of(aged), tmp_path / "2024-03", ids.now().date())
    assert {row["call_sid"] for row in await aged.rows("SELECT call_sid FROM call_sessions")} == {"CA2", "CA9"}
    assert {row["call_sid"] for row in await aged.rows("SELECT call_sid FROM call_session_rejects")} == {"CA2", "CA9"}


@pytest.mark.parametrize("damage", ["call_messages.parquet", "manifest.json"])
async def test_a_damaged_export_is_refused(aged: Any, tmp_path: Path, damage: str) -> None:
    await retire(settings_of(aged), 12, tmp_path)
    path = tmp_path / "2024-03" / damage
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError):
        await restore(settings_of(aged), tmp_path / "2024-03", ids.now().date())


async def test_nothing_is_dropped_that_could_not_be_written(aged: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(ExportError, match="nothing was dropped"):
        await retire(settings_of(aged), 12, blocked)
    assert await partitions_of(aged, MONTH) > 15
    [one] = await retire(settings_of(aged), 12, tmp_path)
    assert one.rows["call_sessions"] == 2


async def test_an_export_that_fails_half_way_leaves_nothing_behind(aged: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object) -> str:
            raise OSError(28, "No space left on device")

        patch.setattr("session_bridge.archive.parquet._check", full)
        with pytest.raises(ExportError, match="No space left"):
            await retire(settings_of(aged), 12, tmp_path)
        assert await asyncio.to_thread(os.listdir, tmp_path) == []
        # The disk may as well be full while rows are written, in the middle of a transaction.
        patch.setattr("pyarrow.parquet.ParquetWriter.write_batch", full)
        with pytest.raises(ExportError, match="No space left"):
            await retire(settings_of(aged), 12, tmp_path)
    assert await asyncio.to_thread(os.listdir, tmp_path) == []
    assert await partitions_of(aged, MONTH) > 15


async def test_late_data_of_a_retired_call_is_let_go(aged: Any) -> None:
    await retire(settings_of(aged), 12, None)
    before = await contents(aged)
    await aged.ask("CA1", {"recording_url": "late", "message:7": {"role": "user", "content": "late"}})
    await aged.ask("CA2", fields(OLD))
    await aged.drain()
    assert await aged.is_gone("CA1")
    assert await aged.is_gone("CA2")
    assert await contents(aged) == before
    assert aged.bridge.drainer.counts.retired == 2
    assert aged.bridge.drainer.counts.dead == 1


async def test_a_tombstone_has_the_same_name_here_and_in_the_schema(bridge: Any) -> None:
    archive_id = await bridge.bridge.connections.identity()
    sids = ["CA1", "Ünïcode-📞", "with space"]
    query = "SELECT tombstone_of(%s::uuid, sid) AS stone FROM unnest(%s::text[]) AS sid"
    rows = await bridge.rows(query, archive_id, sids)
    assert tombstones(archive_id, sids) == [row["stone"] for row in rows]


async def test_a_sid_used_again_after_its_call_was_retired_is_another_call(aged: Any) -> None:
    await retire(settings_of(aged), 12, None)
    started = ids.now() + timedelta(seconds=2)
    await aged.write("CA1", {"provider": "x", "status": "in-progress", "started_at": started.isoformat()})
    # The sweep meets it while it lives, and must neither end it nor take it for late data.
    report = await aged.bridge.sweeper.sweep(limit=100)
    assert (report.rescued, report.sessions) == (0, 1)
    [row] = await aged.rows("SELECT state, generation FROM call_sids WHERE call_sid = 'CA1'")
    assert row["state"] == "live"
    await aged.ask("CA1", {"status": "completed"})
    await aged.drain()
    assert await aged.is_gone("CA1")
    assert (await aged.call("CA1"))["status"] == "completed"
    # Late data of the first call, which says when it began, still goes nowhere; of the second it joins.
    await aged.ask("CA1", {"started_at": OLD.isoformat(), "summary": "of the first"})
    await aged.drain()
    await aged.ask("CA1", {"recording_sid": "RE2"})
    await aged.drain()
    call = await aged.call("CA1")
    assert (call["recording_sid"], call["summary"]) == ("RE2", None)
    await erase(aged.bridge, call_sids=["CA1"])
    assert not await aged.rows("SELECT 1 FROM call_sids WHERE call_sid = 'CA1'")


async def test_an_erasure_brings_no_dead_session_back(aged: Any) -> None:
    """A session that is given up in the moment of its erasure is not kept."""
    bury = aged.bridge.drainer._trouble.bury

    async def erase_first(*arguments: Any, **named: Any) -> None:
        await erase_calls(aged.bridge.connections, ["CA7"], Erased())
        await bury(*arguments, **named)

    aged.bridge.drainer._trouble.bury = erase_first
    await aged.redis.set("session:CA7", "no hash")
    await aged.redis.zadd("session-bridge:ready", {"CA7": 0})
    await aged.drain()
    assert not await aged.rows("SELECT 1 FROM dead_sessions WHERE call_sid = 'CA7'")
    assert not await aged.rows("SELECT 1 FROM call_sids WHERE call_sid = 'CA7'")
    assert await aged.redis.zscore("session-bridge:ready", "CA7") is None


async def test_a_month_whose_retirement_was_interrupted_is_finished_by_the_next_run(aged: Any, tmp_path: Path) -> None:
    async with await psycopg.AsyncConnection.connect(settings_of(aged).database_url) as reader:
        await reader.execute("SELECT count(*) FROM call_messages")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("session_bridge.upkeep.retention._TRIES", 2)
            [one] = await retire(settings_of(aged), 12, tmp_path)
        assert one.busy == ["call_messages"]
        # Half of it is gone, and what comes late is let go all the same.
        await aged.ask("CA1", {"recording_url": "late"})
        await aged.drain()
        assert await aged.is_gone("CA1")
    [one] = await retire(settings_of(aged), 12, tmp_path)
    assert one.busy == []
    assert one.exported_to == str(tmp_path / "2024-03")
    assert not (tmp_path / "2024-03.2").exists()
    assert await partitions_of(aged, MONTH) == 0
    assert sum((await restore(settings_of(aged), tmp_path / "2024-03", ids.now().date())).values()) > 40


async def test_rows_in_default_partitions_go_too(bridge: Any) -> None:
    await bridge.ask("CA1", fields(OLD))
    await bridge.drain()
    await age(bridge, "CA1", OLD)
    assert await partitions_of(bridge, MONTH) == 0
    assert [one.month for one in await plan(settings_of(bridge), 12)] == [MONTH]
    await retire(settings_of(bridge), 12, None)
    assert all(not rows for table, rows in (await contents(bridge)).items() if table != "call_sids")


async def test_the_function_for_pg_cron_does_the_same(aged: Any) -> None:
    dropped = [row["cleanup_old_partitions"] for row in await aged.rows("SELECT cleanup_old_partitions()")]
    assert len(dropped) > 15
    assert all(name.endswith("_y2024m03") for name in dropped)
    assert len(await aged.rows("SELECT 1 FROM call_sids WHERE state = 'retired'")) == 3
    assert await aged.rows("SELECT cleanup_old_partitions()") == []
    await aged.ask("CA1", {"recording_url": "late"})
    await aged.drain()
    assert len(await aged.rows("SELECT 1 FROM call_sessions")) == 1


@pytest.mark.parametrize("keep", [1, 2, 12])
async def test_a_month_that_new_calls_may_begin_in_is_never_due(bridge: Any, keep: int) -> None:
    [row] = await bridge.rows("SELECT retention_cutoff(%s) AS cutoff", keep)
    first_possible = (ids.now() - timedelta(days=35)).date()
    assert row["cutoff"] <= first_possible.replace(day=1)
    assert [one.month for one in await plan(settings_of(bridge), 12)] == []


async def test_drains_run_on_while_months_are_retired_and_made(aged: Any) -> None:
    """Drains, a long reader, retention and the making of partitions, all at once: no drain fails, none is lost."""
    stop = asyncio.Event()
    drained = 0

    async def drain_on() -> None:
        nonlocal drained
        while not stop.is_set():
            for _ in range(5):
                await aged.ask(f"CB{drained}", fields(ids.now() - timedelta(minutes=1)))
                drained += 1
            await aged.drain()

    async def make() -> None:
        async with aged.bridge.connections.plain() as connection:
            for ahead in range(4, 9):
                await ensure_partitions(connection, "public", months_ahead=ahead)

    async def read() -> None:
        async with await psycopg.AsyncConnection.connect(settings_of(aged).database_url) as reader:
            await reader.execute("SELECT count(*) FROM call_messages, call_metrics")
            await asyncio.sleep(1)

    draining = asyncio.create_task(drain_on())
    reading = asyncio.create_task(read())
    [retired], _ = await asyncio.gather(retire(settings_of(aged), 12, None), make())
    await reading
    stop.set()
    await draining
    assert retired.busy == []
    assert await partitions_of(aged, MONTH) == 0
    counts = aged.bridge.drainer.counts
    assert (counts.rejects, counts.dead) == (2 * (drained + 3), 1)
    [row] = await aged.rows("SELECT count(*) AS calls FROM call_sessions WHERE call_sid LIKE 'CB%%'")
    assert row["calls"] == drained
    [row] = await aged.rows("SELECT count(*) AS rows FROM call_messages JOIN call_sids USING (session_id)")
    assert row["rows"] == 2 * (drained + 1)


async def test_a_drain_needs_no_partition(bridge: Any) -> None:
    """With every month missing, rows go to the default partitions, and into their own when it is made late."""
    for row in await bridge.rows(
        'SELECT table_name, to_date(right(child.relname, 8), \'"y"YYYY"m"MM\') AS month '
        "FROM session_bridge_partitioned_tables JOIN pg_inherits "
        "ON inhparent = table_name::text::regclass JOIN pg_class AS child ON child.oid = inhrelid "
        "WHERE child.relname !~ '_default$'"
    ):
        await bridge.rows(
            sql.SQL("WITH dropped AS (SELECT drop_monthly_partition({}, {})) SELECT * FROM dropped").format(
                sql.Literal(row["table_name"]), sql.Literal(row["month"])
            )
        )
    await bridge.ask("CA1", fields(ids.now()))
    await bridge.drain()
    await age(bridge, "CA1", ids.now() - timedelta(days=150))
    await bridge.ask("CA2", fields(ids.now()))
    await bridge.drain()
    [row] = await bridge.rows("SELECT count(*) AS rows FROM call_messages_default")
    assert row["rows"] == 4
    async with bridge.bridge.connections.plain() as connection:
        await ensure_partitions(connection, "public")
    [row] = await bridge.rows("SELECT count(*) AS rows FROM call_messages_default")
    assert row["rows"] == 0
    assert len(await bridge.of("CA1", "call_messages")) == len(await bridge.of("CA2", "call_messages")) == 2


async def test_every_table_that_belongs_to_a_call_is_one_that_retention_and_erasure_know(bridge: Any) -> None:
    found = await bridge.rows(
        "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'session_id' "
        "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition "
        "AND NOT attisdropped"
    )
    known = {row["table_name"] for row in await bridge.rows("SELECT table_name FROM call_tables()")}
    # The books of credits outlive calls; an erasure takes the user's name out of them.
    assert {row["relname"] for row in found} - known == {"call_sids", "credit_transactions"}


async def test_a_users_name_goes_from_the_books_of_credits_and_the_amounts_stay(bridge: Any) -> None:
    keys = bridge.bridge.keys
    await bridge.rows("SELECT grant_credits('acme', 'ada', 500, 'USD', 'for ada')")
    await bridge.rows(
        "INSERT INTO user_budget_settings (tenant_id, user_id, monthly_budget_cents) VALUES ('acme', 'ada', 9) "
        "RETURNING 1"
    )
    await bridge.redis.hset(keys.budget("acme", "ada"), "version", "1")
    receipt = await erase(bridge.bridge, whom=[Person.of_user("ada")])
    assert receipt.rows == {"credit_transactions": 1, "user_budget_settings": 1, "user_credits": 1}
    assert receipt.redis == {"budgets": 1}
    [entry] = await bridge.rows("SELECT user_id, amount_cents, note FROM credit_transactions")
    [balance] = await bridge.rows("SELECT user_id, balance_cents FROM user_credits")
    assert (entry["amount_cents"], entry["note"], balance["balance_cents"]) == (500, None, 500)
    assert entry["user_id"] == balance["user_id"] != "ada"
    assert not await bridge.rows("SELECT 1 FROM user_budget_settings")


async def test_the_migration_goes_down_and_up_on_a_filled_database(aged: Any, tmp_path: Path) -> None:
    before = await contents(aged)
    await aged.rows("INSERT INTO deleted_calls SELECT session_id FROM call_sids WHERE call_sid = 'CA2' RETURNING 1")
    url = settings_of(aged).database_url
    await asyncio.to_thread(migrate, url, "public", 5)
    await asyncio.to_thread(migrate, url)
    assert {**await contents(aged), "deleted_calls": []} == before
    await retire(settings_of(aged), 12, tmp_path)
    stones = await contents(aged)
    await asyncio.to_thread(migrate, url, "public", 5)
    await asyncio.to_thread(migrate, url)
    assert await contents(aged) == stones
    await aged.ask("CA1", {"recording_url": "late"})
    await aged.drain()
    assert await contents(aged) == stones


async def test_the_worker_runs_it_if_it_is_told_to(
    aged: Any, bridge_with: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    from session_bridge.jobs import _beside, retire_months

    await retire_months({"bridge": aged.bridge})
    assert not _beside
    told = await bridge_with(retention_automatic=True, retention_folder=str(tmp_path), retention_months=3)
    await retire_months({"bridge": told.bridge})
    await asyncio.gather(*_beside)
    assert await partitions_of(aged, MONTH) == 0
    assert (tmp_path / "2024-03" / "manifest.json").exists()


def test_months_are_a_setting() -> None:
    assert load_settings().retention_months == 12
    assert load_settings().retention_automatic is False
