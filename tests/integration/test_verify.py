"""`session-bridge verify` on an archive made by the bridge's own path, and on one that is broken in one place."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql

from session_bridge.archive.refresh import refresh_views
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings
from session_bridge.verify.checks import Line, Outcome
from session_bridge.verify.run import verify

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
OTHER_UUID = "overlay(id::text PLACING 'ffff' FROM 33)::uuid"

# One thing broken, and the lines that must fail for it: no other may.
BROKEN = {
    "a migration changed afterwards": (
        "UPDATE session_bridge_migrations SET checksum = 'another' WHERE version = 2",
        {"schema.migrations"},
    ),
    "no identity": ("DELETE FROM session_bridge_archive", {"schema.identity"}),
    "a table dropped": ("DROP TABLE session_bridge_compatibility CASCADE", {"schema.tables"}),
    "a view dropped": ("DROP VIEW call_flow", {"schema.views"}),
    "a materialized view dropped": ("DROP MATERIALIZED VIEW performance_stats", {"schema.views", "schema.indexes", "views.fresh"}),
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
    "an invalid index": (
        "CREATE INDEX half ON ONLY call_sessions (agent_id)",
        {"schema.invalid_indexes"},
    ),
    "an index that no query asks for": (
        # It has the name of one of ours, and is over something that nobody asks for.
        "DROP INDEX call_sessions_started_at; CREATE INDEX call_sessions_started_at ON call_sessions (final_node)",
        {"schema.unused_indexes"},
    ),
    "a month missing": (
        "DO $$ BEGIN EXECUTE format('DROP TABLE call_events_y%s', to_char(now() + interval '1 month',"
        " 'YYYY\"m\"MM')); END $$",
        {"partitions.ahead"},
    ),
    "a month detached": (
        "SELECT create_monthly_partition('call_events', '2024-02-01');"
        "ALTER TABLE call_events DETACH PARTITION call_events_y2024m02",
        {"partitions.attached"},
    ),
    "a row without a month": (
        "INSERT INTO call_journal VALUES (session_id_floor('2019-05-05'), now(), 'e', '{}')",
        {"partitions.default"},
    ),
    "a stale view": (
        "UPDATE session_bridge_refreshes SET refreshed_at = now() - interval '2 days'"
        " WHERE view_name = 'conversation_metrics'",
        {"views.fresh"},
    ),
    "two entries of one session": (
        "INSERT INTO call_sids (call_sid, generation, session_id, tenant_id, state, first_seen_at, last_seen_at,"
        f" last_change_at) SELECT 'twice', 1, session_id, tenant_id, 'retired', now(), now(), now() FROM call_sids"
        f" WHERE call_sid = '{SID}'",
        {"book.duplicates"},
    ),
    "a call deleted from the book": (f"DELETE FROM call_sids WHERE call_sid = '{SID}'", {"calls.book"}),
    "a drain that the book does not know": (
        f"UPDATE call_sessions SET drains = drains + 1 WHERE id = {ONE}",
        {"calls.book"},
    ),
    "a call that the book has and nobody else": (
        "INSERT INTO call_sids (call_sid, session_id, state, drains, first_seen_at, last_seen_at, last_change_at)"
        " VALUES ('gone', session_id_floor(now()), 'archived', 1, now(), now(), now())",
        {"book.entries"},
    ),
    "a dead call without its fields": (
        "INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)"
        " VALUES ('dead', session_id_floor(now()), 'dead', now(), now(), now())",
        {"book.dead"},
    ),
    "a live call that is nowhere": (
        "INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)"
        " VALUES ('nowhere', session_id_floor(now()), 'live', now(), now(), now())",
        {"book.balance"},
    ),
    "a balance changed by hand": (
        "UPDATE user_credits SET balance_cents = balance_cents + 1 WHERE user_id = 'user-7'",
        {"money.credits"},
    ),
    "a measurement deleted": (
        f"DELETE FROM call_metrics WHERE session_id = {ONE} AND metric_type = 'llm_ttfb'",
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
        f"UPDATE call_sessions SET row_counts = row_counts || '{{\"call_events\": 3}}' WHERE id = {ONE}",
        {"calls.row_counts"},
    ),
    "a digest changed": (
        f"UPDATE call_sessions SET content_digest = 'other' WHERE id = {ONE}",
        {"calls.digests"},
    ),
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
    "a number that is there twice": (
        f"UPDATE call_transitions SET sequence = 1 WHERE session_id = {ONE} AND event_id = '2'",
        # The digest is over the events in their order, which is no longer one.
        {"calls.sequences"},
    ),
    "a chunk's text deleted": ("DELETE FROM rag_chunk_contents", {"calls.chunk_texts"}),
    "an orphan between two calls": (
        f"INSERT INTO call_events SELECT {OTHER_UUID}, 'f', 'e', NULL, now(), 1, '{{}}' FROM call_sessions"
        f" WHERE call_sid = '{SID}'",
        {"calls.orphans"},
    ),
    "an orphan before all calls": (
        "INSERT INTO call_recordings (session_id, event_id, sequence)"
        " VALUES (session_id_floor((SELECT min(started_at) FROM call_sessions) - interval '1 minute'), '1', 1)",
        {"calls.orphans"},
    ),
    "an orphan after all calls": (
        "INSERT INTO call_session_rejects (session_id, digest, call_sid, field, reason, error, size_bytes, field_raw,"
        " raw) VALUES (session_id_floor(now()), '', 'x', 'f', 'r', 'e', 1, '', '')",
        {"calls.orphans"},
    ),
    "a row under another tenant": (
        f"UPDATE call_messages SET tenant_id = 'somebody' WHERE session_id = {ONE} AND sequence = 1",
        {"tenants.children"},
    ),
    "a cost that does not add up": (
        f'UPDATE call_cost_breakdowns SET by_service = by_service || \'{{"tea": "2"}}\' WHERE session_id = {ONE}',
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
