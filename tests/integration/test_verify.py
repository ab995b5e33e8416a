"""`session-bridge verify` on an archive made by the bridge's own path, and on one that is broken in one place."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import redis.asyncio
from psycopg import sql

from session_bridge.archive.refresh import refresh_views
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings
from session_bridge.verify import lookups as lookups_module
from session_bridge.verify import structure
from session_bridge.verify.book import BOOK_CHECKS
from session_bridge.verify.calls import CALL_CHECKS, look_through
from session_bridge.verify.checks import STATEMENTS, Line, Outcome, Subject
from session_bridge.verify.expected import expected
from session_bridge.verify.lookups import LOOKUP_CHECKS
from session_bridge.verify.run import verify
from session_bridge.verify.structure import STRUCTURE_CHECKS

CALLS = 60
VERIFIED = "verified_archive"
NAMESPACE = "verified"


def loading() -> Any:
    spec = importlib.util.spec_from_file_location("loading", Path(__file__).parent.parent / "loading.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_of(url: str, redis_url: str, **given: object) -> Settings:
    return load_settings(
        redis_url=redis_url, database_url=url, namespace=NAMESPACE, key_prefix=f"{NAMESPACE}-call:", **given
    )


@pytest.fixture(scope="module")
def filled_template(
    postgres: EmbeddedPostgres, template_database: str, valkey: EmbeddedValkey, shared_calls: Path
) -> Iterator[str]:
    """The name of a database with some calls, made by the bridge's own path; to be cloned for each test."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(VERIFIED), sql.Identifier(template_database)))
    redis_url = f"redis://127.0.0.1:{valkey.port}/14"

    async def fill() -> None:
        settings = settings_of(postgres.url_of(VERIFIED), redis_url, credits="allow_negative")
        async with open_bridge(settings) as bridge:
            await loading().load_calls(bridge, shared_calls, CALLS)
            await refresh_views(bridge.connections)

    asyncio.run(fill())
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"{NAMESPACE}*"):
            client.delete(key)
    yield VERIFIED
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(VERIFIED)))


@pytest.fixture
def archive(postgres: EmbeddedPostgres, filled_template: str) -> Iterator[str]:
    """The address of such a database of the test's own."""
    name = "verified_one"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(filled_template)))
    yield postgres.url_of(name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def run(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def failing(lines: list[Line]) -> set[str]:
    return {line.id for line in lines if line.outcome is Outcome.FAIL}


async def test_an_archive_of_the_bridges_own_making_is_right(archive: str, redis_url: str) -> None:
    lines = await verify(settings_of(archive, redis_url), sample=None)
    skipped = {line.id: line.found for line in lines if line.outcome is Outcome.SKIP}
    assert failing(lines) == set(), [line for line in lines if line.outcome is Outcome.FAIL]
    assert skipped.keys() <= {"tenants.row_security", "lookups.vectors"}, skipped
    assert len(lines) >= 20
    assert len({line.id for line in lines}) == len(lines)
    assert all(line.do == "" for line in lines)


SID = f"load-{CALLS - 20:07}"
ONE = f"session_id_of('{SID}')"

# One thing broken, and the lines that must fail for it: no other may.
BROKEN = {
    "a migration changed afterwards": (
        "UPDATE session_bridge_migrations SET checksum = 'another' WHERE version = 2",
        {"schema.migrations"},
    ),
    "no identity": ("DELETE FROM session_bridge_archive", {"schema.identity"}),
    "a table dropped": ("DROP TABLE session_bridge_compatibility", {"schema.tables"}),
    "a view dropped": ("DROP VIEW call_flow", {"schema.views"}),
    "a materialized view dropped": (
        "DROP MATERIALIZED VIEW performance_stats CASCADE",
        {"schema.views", "schema.indexes", "views.fresh"},
    ),
    "a function dropped": ("DROP FUNCTION grant_credits", {"schema.functions"}),
    "a trigger disabled": (
        "ALTER TABLE user_budget_settings DISABLE TRIGGER note_budget_change",
        {"schema.functions"},
    ),
    "an index dropped": ("DROP INDEX call_sessions_started_at", {"schema.indexes"}),
    "a primary key dropped": (
        "ALTER TABLE call_session_rejects DROP CONSTRAINT call_session_rejects_pkey",
        {"schema.keys"},
    ),
    "an invalid index": ("CREATE INDEX half ON ONLY call_sessions (agent_id)", {"schema.invalid_indexes"}),
    "an index that no query asks for": (
        "DROP INDEX call_sessions_started_at; CREATE INDEX call_sessions_started_at ON call_sessions (final_node)",
        {"schema.unused_indexes"},
    ),
    "a month missing": (
        """DO $$ BEGIN
            EXECUTE 'DROP TABLE call_events_y' || to_char(now() + interval '1 month', 'YYYY"m"MM');
        END $$""",
        {"partitions.ahead"},
    ),
    "a month detached": (
        """SELECT create_monthly_partition('call_events', '2024-02-01');
        ALTER TABLE call_events DETACH PARTITION call_events_y2024m02""",
        {"partitions.attached"},
    ),
    "a row without a month": (
        "INSERT INTO call_journal VALUES (session_id_floor('2019-05-05'), now(), 'e', '{}')",
        {"partitions.default"},
    ),
    "a default partition dropped": ("DROP TABLE call_events_default", {"partitions.default"}),
    "a stale view": (
        """UPDATE session_bridge_refreshes SET refreshed_at = now() - interval '2 days'
        WHERE view_name = 'conversation_metrics'""",
        {"views.fresh"},
    ),
    "two entries of one session": (
        f"""INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
        SELECT 'twice', session_id, 'retired', now(), now(), now() FROM call_sids WHERE call_sid = '{SID}'""",
        {"book.duplicates"},
    ),
    "a call deleted from the book": (f"DELETE FROM call_sids WHERE call_sid = '{SID}'", {"calls.book"}),
    "a drain that the book does not know": (
        f"UPDATE call_sessions SET drains = drains + 1 WHERE id = {ONE}",
        {"calls.book"},
    ),
    "a call that the book has and nobody else": (
        """INSERT INTO call_sids (call_sid, session_id, state, drains, first_seen_at, last_seen_at, last_change_at)
        VALUES ('gone', session_id_floor(now()), 'archived', 1, now(), now(), now())""",
        {"book.entries"},
    ),
    "a dead call without its fields": (
        """INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
        VALUES ('dead', session_id_floor(now()), 'dead', now(), now(), now())""",
        {"book.dead"},
    ),
    "a live call that is nowhere": (
        """INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
        VALUES ('nowhere', session_id_floor(now()), 'live', now(), now(), now())""",
        {"book.balance"},
    ),
    "a balance changed by hand": (
        "UPDATE user_credits SET balance_cents = balance_cents + 1 WHERE user_id = 'user-7'",
        {"money.credits"},
    ),
    "a measurement deleted": (
        f"DELETE FROM call_metrics WHERE session_id = {ONE} AND event_id = '2'",
        {"calls.row_counts", "calls.digests", "calls.summaries"},
    ),
    "a message deleted": (
        f"DELETE FROM call_messages WHERE session_id = {ONE} AND sequence = 1",
        {"calls.row_counts", "calls.digests", "calls.summaries", "calls.transcripts", "calls.sequences"},
    ),
    "other words": (
        f"UPDATE call_messages SET content = 'never said' WHERE session_id = {ONE} AND sequence = 1",
        {"calls.digests", "calls.transcripts"},
    ),
    "a count changed": (
        f"""UPDATE call_sessions SET row_counts = row_counts || '{{"call_events": 3}}' WHERE id = {ONE}""",
        {"calls.row_counts"},
    ),
    "a digest changed": (f"UPDATE call_sessions SET content_digest = 'other' WHERE id = {ONE}", {"calls.digests"}),
    "a summary changed": (
        f"UPDATE call_sessions SET avg_user_to_bot_latency_ms = avg_user_to_bot_latency_ms + 1 WHERE id = {ONE}",
        {"calls.summaries"},
    ),
    "a total changed": (
        f"UPDATE call_sessions SET total_cost_cents = total_cost_cents + 0.0000000001 WHERE id = {ONE}",
        {"calls.summaries"},
    ),
    "a transcript changed": (
        f"UPDATE call_transcripts SET transcript_text = 'nothing' WHERE session_id = {ONE}",
        {"calls.transcripts"},
    ),
    "a gap in the numbers": (
        f"UPDATE call_transitions SET sequence = 7 WHERE session_id = {ONE} AND event_id = '2'",
        {"calls.sequences"},
    ),
    "a first chunk that is the second": (
        f"UPDATE call_rag_chunks SET chunk_rank = 2 WHERE session_id = {ONE}",
        {"calls.sequences"},
    ),
    "two events in another order": (
        f"UPDATE call_metrics SET sequence = 3 - sequence WHERE session_id = {ONE}",
        {"calls.digests"},
    ),
    "a chunk's text deleted": ("DELETE FROM rag_chunk_contents", {"calls.chunk_texts"}),
    "an orphan between two calls": (
        f"""INSERT INTO call_events
        SELECT overlay(id::text PLACING 'ffff' FROM 33)::uuid, 'f', 'e', NULL, now(), 1, '{{}}' FROM call_sessions
        WHERE call_sid = '{SID}'""",
        {"calls.orphans"},
    ),
    "an orphan before all calls": (
        """INSERT INTO call_recordings (session_id, event_id, sequence)
        SELECT session_id_floor(min(started_at) - interval '1 minute'), '1', 1 FROM call_sessions""",
        {"calls.orphans"},
    ),
    "an orphan after all calls": (
        """INSERT INTO call_session_rejects (
            session_id, digest, call_sid, field, reason, error, size_bytes, field_raw, raw)
        VALUES (session_id_floor(now()), '', 'x', 'f', 'r', 'e', 1, '', '')""",
        {"calls.orphans"},
    ),
    "a row under another tenant": (
        f"UPDATE call_messages SET tenant_id = 'somebody' WHERE session_id = {ONE} AND sequence = 1",
        {"tenants.children"},
    ),
    "a cost that does not add up": (
        f"""UPDATE call_cost_breakdowns SET by_service = by_service || '{{"tea": "2"}}' WHERE session_id = {ONE}""",
        {"money.calls"},
    ),
    "another sum reported": (
        f"UPDATE call_cost_breakdowns SET reported_cents = reported_cents + 1 WHERE session_id = {ONE}",
        {"money.calls"},
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_broken_is_told_and_nothing_else(archive: str, redis_url: str, what: str) -> None:
    statement, told = BROKEN[what]
    run(archive, statement)
    lines = await verify(settings_of(archive, redis_url), sample=None)
    assert failing(lines) == told, [line for line in lines if line.outcome is Outcome.FAIL]
    assert all(line.do for line in lines if line.outcome is Outcome.FAIL)


async def test_two_events_with_one_number(archive: str, redis_url: str) -> None:
    run(archive, f"UPDATE call_metrics SET sequence = 1 WHERE session_id = {ONE}")
    lines = await verify(settings_of(archive, redis_url), sample=None)
    # The digest is of the events in their order, which is no longer one.
    assert {"calls.sequences"} <= failing(lines) <= {"calls.sequences", "calls.digests"}


async def test_every_kind_of_a_calls_finding_was_seen_to_fail() -> None:
    told = set().union(*(lines for _, lines in BROKEN.values()))
    elsewhere = {"tenants.row_security", "book.stuck"} | {check.id for check in LOOKUP_CHECKS}
    every = {check.id for check in (*STRUCTURE_CHECKS, *BOOK_CHECKS)} | set(CALL_CHECKS)
    assert told >= every - elsewhere


# -- Redis ------------------------------------------------------------------------------------------------------------


async def test_a_call_that_waits_too_long_is_stuck(archive: str, redis_url: str) -> None:
    settings = settings_of(archive, redis_url)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hset(settings.keys.session("waits"), mapping={"status": "completed"})
        await client.zadd(settings.keys.ready, {"waits": 1})
    assert failing(await verify(settings)) == {"book.stuck"}


async def test_sessions_of_another_archive_are_told(archive: str, redis_url: str) -> None:
    settings = settings_of(archive, redis_url)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.set(settings.keys.archive, "6f9c2c1e-0000-4000-8000-000000000000")
    assert failing(await verify(settings)) == {"schema.identity"}


async def test_without_redis_the_rest_is_looked_at(archive: str, unused_tcp_port: int) -> None:
    lines = await verify(settings_of(archive, f"redis://127.0.0.1:{unused_tcp_port}/0"))
    outcomes = {line.id: line.outcome for line in lines}
    assert failing(lines) == set()
    assert outcomes["book.balance"] is outcomes["book.stuck"] is Outcome.SKIP
    assert outcomes["calls.summaries"] is Outcome.PASS


# -- beside the workers -----------------------------------------------------------------------------------------------


async def test_it_writes_nothing(archive: str, redis_url: str) -> None:
    settings = settings_of(archive, redis_url)
    lines = await verify(settings)
    assert failing(lines) == set()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
    async with (
        open_bridge(settings, check=False) as bridge,
        Subject(settings, bridge.connections, bridge, None, 1).snapshot() as reading,
    ):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await reading.connection.execute("DELETE FROM call_sids")


async def test_drains_that_go_on_meanwhile_are_no_alarm(archive: str, redis_url: str, shared_calls: Path) -> None:
    settings = settings_of(archive, redis_url, batch_size=5)
    async with open_bridge(settings) as bridge:
        writing = asyncio.create_task(loading().load_calls(bridge, shared_calls, 150, label="meanwhile"))
        rounds = 0
        while not writing.done():
            lines = await look_through(Subject(settings, bridge.connections, bridge, None, None), lambda _, __: None)
            assert failing(lines) == set(), lines
            assert {line.outcome for line in lines} == {Outcome.PASS}
            rounds += 1
        await writing
    assert rounds
    assert failing(await verify(settings, sample=None)) <= {"views.fresh"}


# -- samples ----------------------------------------------------------------------------------------------------------


async def test_a_sample_is_of_so_many_calls_and_says_so(archive: str, redis_url: str) -> None:
    seen: list[tuple[int, int]] = []
    lines = await verify(settings_of(archive, redis_url), 7, lambda looked, of: seen.append((looked, of)))
    [line] = [line for line in lines if line.id == "calls.summaries"]
    assert line.found == "right in a sample of 7 calls"
    assert seen[-1] == (7, 7)


async def test_a_sample_is_never_short(archive: str, redis_url: str) -> None:
    for sample in range(1, 30):
        lines = await look_through_once(archive, redis_url, sample)
        [line] = [line for line in lines if line.id == "calls.summaries"]
        assert line.found == f"right in a sample of {sample} calls"


async def test_a_sample_draws_different_calls(archive: str, redis_url: str) -> None:
    run(archive, f"UPDATE call_sessions SET total_turns = -1 WHERE id = {ONE}")
    outcomes = set()
    for _ in range(200):
        lines = await look_through_once(archive, redis_url, 30)
        outcomes.add("calls.summaries" in failing(lines))
        if len(outcomes) == 2:
            return
    raise AssertionError(f"of 200 samples of half of the calls, none or all had it: {outcomes}")


async def look_through_once(url: str, redis_url: str, sample: int) -> list[Line]:
    settings = settings_of(url, redis_url)
    async with open_bridge(settings, check=False) as bridge:
        return await look_through(Subject(settings, bridge.connections, bridge, None, sample), lambda _, __: None)


# -- tenants ----------------------------------------------------------------------------------------------------------


async def test_row_level_security_is_asked_of_every_table_with_a_tenant(
    archive: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "does_something", lambda _: True)
    run(archive, "CREATE TABLE theirs (tenant_id text)")
    run(archive, each_with_tenant("ENABLE"))
    assert failing(await verify(settings_of(archive, redis_url), 1)) == set()
    run(archive, "ALTER TABLE call_events DISABLE ROW LEVEL SECURITY")
    lines = await verify(settings_of(archive, redis_url), 1)
    assert failing(lines) == {"tenants.row_security"}
    assert any("call_events" in line.found for line in lines)


async def test_a_role_that_sees_only_a_part_is_told_so(archive: str, redis_url: str) -> None:
    run(archive, each_with_tenant("ENABLE"))
    role = "DROP ROLE IF EXISTS sees_a_part; CREATE ROLE sees_a_part LOGIN PASSWORD 'p'"
    run(archive, f"{role}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO sees_a_part")
    parts = urlsplit(archive)
    url = parts._replace(netloc=f"sees_a_part:p@{parts.hostname}:{parts.port}").geturl()
    lines = {line.id: line for line in await verify(settings_of(url, redis_url), 1)}
    assert lines["calls.summaries"].outcome is Outcome.SKIP
    assert "row-level security" in lines["calls.summaries"].found
    run(archive, "DROP OWNED BY sees_a_part; DROP ROLE sees_a_part")


def each_with_tenant(verb: str) -> str:
    return f"""DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT attrelid::regclass FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE attname = 'tenant_id' AND relkind IN ('r', 'p') AND NOT relispartition
                AND relnamespace = 'public'::regnamespace AND relname <> 'theirs'
        LOOP EXECUTE format('ALTER TABLE %s {verb} ROW LEVEL SECURITY', name); END LOOP;
    END $$"""


# -- look-ups ---------------------------------------------------------------------------------------------------------

MANY = """
CREATE TEMP TABLE one AS SELECT * FROM call_sessions LIMIT 1;
INSERT INTO call_sessions
SELECT (jsonb_populate_record(one, jsonb_build_object(
    'id', overlay(session_id_floor(now() - n * interval '1 second')::text PLACING '7' FROM 15), 'call_sid', 'many' || n,
    'user_id', 'user-' || n % 600))).*
FROM one, generate_series(1, 6000) AS n;
INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
SELECT call_sid, id, CASE WHEN random() < 0.01 THEN 'live' ELSE 'archived' END, now(), now(), now()
FROM call_sessions WHERE call_sid LIKE 'many%';
INSERT INTO call_embeddings
SELECT id, 'm', 1, tenant_id, 3, 1, 9, '', ARRAY[random(), random(), random()] FROM call_sessions;
SELECT prepare_semantic_search('m', 3);
ANALYZE;
"""


async def lookups(url: str, redis_url: str) -> dict[str, Line]:
    return {line.id: line for line in await verify(settings_of(url, redis_url), 1) if line.id.startswith("lookups.")}


async def test_lookups_are_planned_by_indexes(archive: str, redis_url: str) -> None:
    run(archive, MANY)
    lines = await lookups(archive, redis_url)
    assert {line.outcome for line in lines.values()} == {Outcome.PASS}, lines
    for name, index in (
        ("user", "user_id_id_idx"),
        ("active", "call_sids_alive"),
        ("metadata", "pkey"),
        ("vectors", "idx"),
    ):
        assert index in lines[f"lookups.{name}"].found
        assert " ms (bound " in lines[f"lookups.{name}"].found


@pytest.mark.parametrize(
    ("lookup", "statement"),
    [
        ("user", "DROP INDEX call_sessions_user_id"),
        ("active", "DROP INDEX call_sids_alive"),
        (
            "metadata",
            "ALTER TABLE call_sessions DROP CONSTRAINT call_sessions_pkey; DROP INDEX call_sessions_archived_at",
        ),
        ("vectors", "DO $$ BEGIN EXECUTE 'DROP INDEX ' || semantic_index_name('m', 3); END $$"),
    ],
)
async def test_a_lookup_without_its_index_fails(archive: str, redis_url: str, lookup: str, statement: str) -> None:
    run(archive, MANY)
    run(archive, statement)
    lines = await lookups(archive, redis_url)
    assert lines[f"lookups.{lookup}"].outcome is Outcome.FAIL, lines
    assert lines[f"lookups.{lookup}"].do


# -- what is expected -------------------------------------------------------------------------------------------------


async def test_an_index_of_somebody_elses_is_judged_by_its_use(
    archive: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(archive, "CREATE INDEX by_outcome ON call_sessions (outcome)")
    [line] = [one for one in await verify(settings_of(archive, redis_url), 1) if one.id == "schema.unused_indexes"]
    assert line.outcome is Outcome.PASS
    assert "by_outcome" in line.found
    # As if the server had counted for long.
    monkeypatch.setattr(lookups_module, "_COUNTED_DAYS", 0)
    [line] = [one for one in await verify(settings_of(archive, redis_url), 1) if one.id == "schema.unused_indexes"]
    assert line.outcome is Outcome.FAIL
    assert "by_outcome" in line.found


def test_every_index_of_the_migrations_has_a_query_that_asks_for_it(archive: str) -> None:
    with psycopg.connect(archive) as connection:
        unique = connection.execute("SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indisunique")
        names = {name for (name,) in unique.fetchall()}
    assert {f"asks_{name}" for name in expected()["INDEX"] - names} <= set(STATEMENTS)
