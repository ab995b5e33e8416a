"""Every query that is shipped, on an archive of thousands of calls: by an index, and by one partition for one call.

PostgreSQL itself says how it ran each statement, those inside of functions too (auto_explain). 100,000 calls are for
`session-bridge verify`; these are enough for the planner to prefer an index wherever it can use one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from psycopg import sql

from session_bridge.archive.migrations import migrate
from session_bridge.archive.sql import QUERIES
from session_bridge.archive.tables import CHILDREN
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

CALLS = 6_000
DATABASE = "test_plans"
# A table of fewer rows is read as a whole, and rightly.
SMALL = 200
PARTITION = re.compile(r"(.+)_(default|y\d{4}m\d{2})")


def loading() -> Any:
    spec = importlib.util.spec_from_file_location("loading", Path(__file__).parent.parent / "loading.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Scans:
    """What a statement read: the partitions of each table, and how."""

    partitions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    whole: set[str] = field(default_factory=set)
    indexes: set[str] = field(default_factory=set)

    def add(self, node: dict[str, Any]) -> None:
        if node.get("Actual Loops", 1):
            if relation := node.get("Relation Name"):
                found = PARTITION.fullmatch(relation)
                self.partitions[found[1] if found else relation].add(relation)
                if node["Node Type"] == "Seq Scan":
                    self.whole.add(relation)
            if index := node.get("Index Name"):
                self.indexes.add(index)
        for child in node.get("Plans", ()):
            self.add(child)


class Explainer:
    """Runs statements, and tells what they read; nothing they change is kept."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.add_notice_handler(self._hear)
        self._connection.execute(
            "LOAD 'auto_explain'; SET client_min_messages = log; SET auto_explain.log_min_duration = 0;"
            "SET auto_explain.log_analyze = on; SET auto_explain.log_timing = off; SET auto_explain.log_format = json;"
            "SET auto_explain.log_nested_statements = on"
        )
        self._scans = Scans()
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("ANALYZE")
            names = other.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace = 'public'::regnamespace"
            ).fetchall()
            self.rows: dict[str, int] = {}
            for (name,) in names:
                count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))
                [(self.rows[name],)] = other.execute(count).fetchall()

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        _, plan, text = (notice.message_primary or "").partition("plan:\n")
        if plan:
            self._scans.add(json.loads(text)["Plan"])

    def of(self, statement: str | bytes, parameters: Any = None, role: str | None = None) -> Scans:
        """What this statement reads, run by a role if one is named."""
        self._scans = Scans()
        with self._connection.transaction(force_rollback=True):
            if role is not None:
                self._connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            self._connection.execute(statement if isinstance(statement, bytes) else statement.encode(), parameters)
        return self._scans

    def value(self, query: str, *parameters: object) -> Any:
        row = self._connection.execute(query.encode(), parameters or None).fetchone()
        assert row is not None
        return row[0]

    def read_whole(self, scans: Scans) -> set[str]:
        """What was read as a whole and is not small."""
        return {relation for relation in scans.whole if self.rows.get(relation, 0) > SMALL}

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def filled_url(
    postgres: EmbeddedPostgres, template_database: str, valkey: EmbeddedValkey, shared_calls: Path
) -> Iterator[str]:
    """The address of an archive of thousands of recorded calls, which lie in the last thirty days."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(DATABASE), sql.Identifier(template_database)))
    url = postgres.url_of(DATABASE)
    redis_url = f"redis://127.0.0.1:{valkey.port}/15"

    async def fill() -> None:
        settings = load_settings(
            redis_url=redis_url, database_url=url, namespace="plans", key_prefix="plans-call:", batch_size=250
        )
        async with open_bridge(settings) as bridge:
            await loading().load_calls(bridge, shared_calls, CALLS)

    asyncio.run(fill())
    yield url
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter("plans*"):
            client.delete(key)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(DATABASE)))


@pytest.fixture(scope="module")
def explainer(filled_url: str) -> Iterator[Explainer]:
    opened = Explainer(filled_url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def one(explainer: Explainer) -> dict[str, Any]:
    """One call, and values for every parameter that a query of ours takes."""
    sid = f"load-{CALLS - 700:07}"
    session_id = str(explainer.value("SELECT session_id_of(%s)", sid))
    now = datetime.now(UTC)
    hashes = explainer.value("SELECT content_hash FROM call_rag_chunks WHERE session_id = %s", session_id)
    month = explainer.value("SELECT session_month(%s)", session_id)
    tenant = explainer.value("SELECT tenant_id FROM call_sids WHERE call_sid = %s", sid) or ""
    return {
        "sid": sid,
        "session_id": session_id,
        "now": now,
        "week": now - timedelta(days=7),
        "hash": hashes,
        "month": month,
        "tenant": tenant,
    }


# -- of one call ------------------------------------------------------------------------------------------------------

OF_ONE_CALL = {
    "archived_call": {"call_sid": "sid"},
    "archived_messages": {"session_id": "session_id"},
    "call_moments": {"session_id": "session_id"},
    "journal": {"call_sid": "sid"},
    "book_entry": {"call_sid": "sid"},
    "dead_of": {"call_sid": "sid"},
}


@pytest.mark.parametrize("name", OF_ONE_CALL)
def test_a_query_of_one_call_reads_one_partition(explainer: Explainer, one: dict[str, Any], name: str) -> None:
    scans = explainer.of(QUERIES[name], {key: one[value] for key, value in OF_ONE_CALL[name].items()})
    assert_one_partition_by_index(explainer, scans)


@pytest.mark.parametrize("table", ["call_sessions", *[table.name for table in CHILDREN]])
def test_what_a_merge_reads_back_is_one_partition(explainer: Explainer, one: dict[str, Any], table: str) -> None:
    key = "id" if table == "call_sessions" else "session_id"
    scans = explainer.of(f"SELECT * FROM {table} WHERE {key} = ANY(%s)", [[one["session_id"]]])
    assert_one_partition_by_index(explainer, scans)


@pytest.mark.parametrize("view", ["call_analytics", "call_flow", "call_timeline", "call_rag_chunk_texts"])
def test_a_view_of_one_call_reads_one_partition_of_each_table(
    explainer: Explainer, one: dict[str, Any], view: str
) -> None:
    for condition in ("session_id = %s", "session_id = session_id_of(%s)"):
        value = one["session_id"] if condition.endswith("= %s") else one["sid"]
        scans = explainer.of(f"SELECT * FROM {view} WHERE {condition}", [value])
        assert_one_partition_by_index(explainer, scans)
        assert scans.partitions


@pytest.mark.parametrize("view", ["calls", "voice_calls", "voice_messages", "call_logs", "conversations"])
def test_a_compatibility_view_of_one_call_reads_one_partition_of_each_table(
    explainer: Explainer, filled_url: str, one: dict[str, Any], view: str
) -> None:
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("SELECT make_compatibility_views('older')")
    key = "call_id" if view == "voice_messages" else "id"
    scans = explainer.of(f"SELECT * FROM older.{view} WHERE {key} = %s", [one["session_id"]])
    assert_one_partition_by_index(explainer, scans)
    assert scans.partitions


def assert_one_partition_by_index(explainer: Explainer, scans: Scans) -> None:
    assert not explainer.read_whole(scans)
    assert {table: found for table, found in scans.partitions.items() if len(found) > 1} == {}


# -- of many calls ----------------------------------------------------------------------------------------------------

SEARCH = {"tenant": None, "agent": None, "limit": 20, "mark": "[", "unmark": "]"}


@pytest.mark.parametrize("tenant", [None, "acme"])
@pytest.mark.parametrize("since", [None, "week"])
def test_a_search_uses_the_index_of_words(
    explainer: Explainer, one: dict[str, Any], tenant: str | None, since: str | None
) -> None:
    given = SEARCH | {"query": "appointment doctor", "tenant": tenant, "since": one[since] if since else None}
    calls = explainer.of(QUERIES["search_calls"], given)
    assert any("search_words" in index for index in calls.indexes), calls
    assert not explainer.read_whole(calls)
    messages = explainer.of(QUERIES["search_messages"], given | {"speaker": "user"})
    assert any("search_words" in index for index in messages.indexes), messages
    assert not explainer.read_whole(messages)
    if since:
        past = f"call_transcripts_y{one['week'] - timedelta(days=31):%Ym%m}"
        assert past not in calls.partitions["call_transcripts"]


def test_a_search_of_chunks_finds_their_calls_by_an_index(explainer: Explainer, one: dict[str, Any]) -> None:
    scans = explainer.of(QUERIES["search_chunks"], SEARCH | {"query": "branch opens", "since": one["week"]})
    assert any("content_hash_session_id" in index for index in scans.indexes), scans
    assert not explainer.read_whole(scans)


def test_active_calls_are_found_by_an_index(explainer: Explainer) -> None:
    scans = explainer.of("SELECT * FROM active_calls_summary")
    assert scans.indexes >= {"call_sids_alive"}
    assert not explainer.read_whole(scans)


def test_a_users_calls_are_found_by_an_index(explainer: Explainer, one: dict[str, Any]) -> None:
    for statement, parameters in (
        ("SELECT * FROM get_conversation_stats(%s, 30)", ["user-7"]),
        ("SELECT * FROM call_analytics WHERE user_id = %s ORDER BY session_id DESC LIMIT 10", ["user-7"]),
    ):
        scans = explainer.of(statement, parameters)
        assert any("user_id" in index for index in scans.indexes), scans
        assert not explainer.read_whole(scans)


def test_a_day_of_agents_is_read_by_an_index_of_one_partition(explainer: Explainer, one: dict[str, Any]) -> None:
    day = one["now"].date() - timedelta(days=3)
    scans = explainer.of("SELECT * FROM agent_performance WHERE day = %s", [day])
    assert not explainer.read_whole(scans)
    assert all("call_sessions" not in relation for relation in scans.whole)


@pytest.mark.parametrize("by", ["day", "hour", "agent"])
def test_statistics_of_some_days_are_read_by_an_index(explainer: Explainer, one: dict[str, Any], by: str) -> None:
    given = {"since": one["now"] - timedelta(days=2), "until": one["now"], "by": by, "tenant": None, "agent": None}
    assert not explainer.read_whole(explainer.of(QUERIES["stats"], given))


def test_what_was_archived_lately_is_found_by_an_index(explainer: Explainer, one: dict[str, Any]) -> None:
    given = {"archived_through": one["now"] - timedelta(minutes=1), "session_through": one["session_id"], "limit": 50}
    scans = explainer.of(QUERIES["archived_since"], given | {"model": "m"})
    assert any("archived_at" in index for index in scans.indexes), scans
    assert not explainer.read_whole(scans)


# -- for readers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(filled_url: str, explainer: Explainer) -> Iterator[Callable[..., str]]:
    """Makes a role that sees this, and no more."""
    made = ["plans_owner", "plans_writer", "plans_reader"]
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("SELECT create_archive_roles('plans')")

        def make(sees: str, tenant: str | None = None, whose: str | None = None) -> str:
            name = f"plans {sees} {tenant} {whose}"
            if name not in made:
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
                connection.execute("SELECT let_read(%s, %s, %s, %s)", (name, sees, tenant, whose))
                made.append(name)
            return name

        yield make
        for name in reversed(made):
            connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_a_readers_search_uses_the_index_of_words(
    explainer: Explainer, one: dict[str, Any], reader: Callable[..., str]
) -> None:
    for role in (reader("tenant", "acme"), reader("all")):
        for place, query, index in (
            ("calls", "appointment doctor", "search_words"),
            ("messages", "appointment doctor", "search_words"),
            ("chunks", "branch opens", "search_words"),
        ):
            statement = f"SELECT * FROM search_{place}(%s, since => %s)"
            scans = explainer.of(statement, [query, one["week"]], role)
            assert any(index in name for name in scans.indexes) or place == "chunks", (role, place, scans)
            assert not explainer.read_whole(scans), (role, place)


def test_a_readers_call_is_one_partition(explainer: Explainer, one: dict[str, Any], reader: Callable[..., str]) -> None:
    roles = [reader("tenant", one["tenant"] or "acme"), reader("all"), reader("user", None, "user-7")]
    for role in roles:
        for relation in ("call_sessions", "call_analytics", "call_flow", "call_timeline", "call_messages"):
            key = "id" if relation == "call_sessions" else "session_id"
            scans = explainer.of(f"SELECT * FROM {relation} WHERE {key} = %s", [one["session_id"]], role)
            assert not explainer.read_whole(scans), (role, relation, scans)
            if "user" not in role:
                assert_one_partition_by_index(explainer, scans)


def test_a_users_calls_are_taken_from_an_index(explainer: Explainer, reader: Callable[..., str]) -> None:
    scans = explainer.of("SELECT * FROM reader_calls()", role=reader("participant", None, "user-7"))
    assert any("user_id" in index for index in scans.indexes), scans
    assert "call_sessions" not in {relation.partition("_y")[0] for relation in explainer.read_whole(scans)}


# -- and every other --------------------------------------------------------------------------------------------------

# What reads a whole table because it is about the whole of it.
ABOUT_EVERYTHING = {
    **dict.fromkeys(
        ("create_roles", "give_archive", "protect_archive", "exposures", "let_read", "stop_reading"),
        "is about rights, and asks the catalogue",
    ),
    "book_states": "adds up the book",
    "refresh_views": "computes the views anew",
    "forget_model": "takes a model's vectors away",
    "missing_contents": "expects a thousand chunks at once, and a month here has hardly more",
    "keep_dead_fields": "writes beside a row that must be there, and reads nothing else",
}
COVERED = {
    *OF_ONE_CALL,
    "search_calls",
    "search_messages",
    "search_chunks",
    "stats",
    "archived_since",
    # In tests of their own, on vectors.
    "search_by_meaning",
    "prepare_semantic_search",
    "keep_embeddings",
    "forget_embeddings",
    # They make and drop views.
    "make_compatibility_views",
    "drop_compatibility_views",
}


def named_in(file: str) -> set[str]:
    text = resources.files("session_bridge.archive").joinpath(file).read_text()
    return set(re.findall(r"^-- name: (\w+)$", text, re.MULTILINE))


# What an operator asks now and then, of whole months or of tables with a row a user; the drains' own have tests below.
OF_OPERATORS = named_in("money.sql") | named_in("retention.sql")


def test_what_a_drain_asks_about_money_uses_an_index(explainer: Explainer, one: dict[str, Any]) -> None:
    settled = explainer.of(QUERIES["last_settlements"], {"session_ids": [one["session_id"]]})
    assert not explainer.read_whole(settled)
    month = one["now"].replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    given = ["", "user-7", "USD", month - timedelta(days=40), month]
    spent = explainer.of("SELECT * FROM user_spend(%s, %s, %s, %s, %s)", given)
    assert any("user_id" in index for index in spent.indexes), spent
    assert not explainer.read_whole(spent)


def test_every_other_query_uses_an_index_too(explainer: Explainer, one: dict[str, Any]) -> None:
    sid, session_id, now = one["sid"], one["session_id"], one["now"]
    digest = b"\\x00"
    call = {"call_sid": sid, "generation": 1, "session_id": session_id, "state": "archived", "expected_drains": 1}
    call |= {"at": now}
    given: dict[str, Any] = {
        "call_sids": [sid],
        "names": [sid, "retired:x"],
        "tombstones": ["retired:x"],
        "call_sid": [sid],
        "generation": [1],
        "session_id": [session_id],
        "session_ids": [session_id],
        "tenant_id": [None],
        "state": ["archived"],
        "status": ["completed"],
        "drains": [1],
        "at": [now],
        "since": now - timedelta(hours=1),
        "limit": 100,
        "after": sid,
        "month": one["month"],
        "hashes": "\\x" + one["hash"].hex(),
        "id": 1,
        "dead_id": 1,
        "all": False,
        "model": "m",
        "lease": session_id,
        "seconds": 10,
        "dimension": 3,
        "done": True,
        "archived_through": now,
        "session_through": session_id,
        "error": "e",
        "reason": "r",
        "attempts": 1,
        "fields": 1,
        "size_bytes": 1,
        "event": "e",
        "detail": "{}",
        "digest": [digest],
        "field": ["f"],
        "field_raw": [b"f"],
        "raw": [b"r"],
        "calls": json.dumps([call], default=str),
        "contents": json.dumps(
            [{"month": str(one["month"]), "tenant_id": one["tenant"], "content_hash": "\\x00", "content": "text"}]
        ),
        **{name: [now] for name in ("started_at", "ended_at", "last_activity_at", "changed_at")},
        "fingerprint": ["f"],
        "currency": ["USD"],
        "chunk_rank": [1],
    }
    alone = {
        "missing_contents": {"tenant_id": one["tenant"]},
        "enter_dead": {"call_sid": sid, "session_id": session_id, "tenant_id": None, "error": "e", "reason": "r"},
        "mark_dead": {"call_sid": sid, "session_id": session_id, "tenant_id": None, "generation": 1, "at": now},
        "enter_dead_call": {"call_sid": sid, "session_id": session_id, "tenant_id": None, "generation": 1, "at": now},
        "enter_journal": {"session_id": session_id, "at": now},
        **{
            name: {"call_sid": sid, "session_id": session_id}
            for name in ("revive", "forget_dead_before", "book_entry", "dead_of")
        },
        "drop_chunks": {"event_id": ["1"]},
        "keep_rejects": {"error": ["e"], "reason": ["r"], "size_bytes": [1]},
    }
    others = set(QUERIES) - set(ABOUT_EVERYTHING) - COVERED - OF_OPERATORS
    assert others
    for name in sorted(others):
        wanted = set(re.findall(r"%\((\w+)\)[sb]", QUERIES[name].decode()))
        values = given | alone.get(name, {})
        query = QUERIES[name].replace(b"{schema}", b"public")
        scans = explainer.of(query, {key: values[key] for key in wanted} or None)
        assert not explainer.read_whole(scans), name


# -- the way back -----------------------------------------------------------------------------------------------------


def test_the_migrations_go_down_and_up_again_on_this_archive(explainer: Explainer, filled_url: str) -> None:
    ask = "SELECT count(*) FROM search_calls('appointment doctor', max_results => 1000, considered => 10000)"
    numbers = "SELECT sum(calls) FROM conversation_metrics"
    explainer.value("SELECT count(*) FROM refresh_archive_views()")
    before = explainer.value(ask), explainer.value(numbers)
    assert before[0] > 10
    assert before[1] == CALLS
    assert migrate(filled_url, to=2)
    with psycopg.connect(filled_url) as connection:
        [(kept,)] = connection.execute("SELECT count(*) FROM call_transcripts").fetchall()
    assert kept == CALLS
    assert migrate(filled_url)
    assert (explainer.value(ask), explainer.value(numbers)) == before
