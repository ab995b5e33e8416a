"""Migrations on a real server: up, down, twice at once, and everything that they refuse."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from deployments import until
from session_bridge.archive.migration_files import load, read_folder
from session_bridge.archive.migrations import migrate, pending, require_current, require_current_sync, script
from session_bridge.contract import ids
from session_bridge.errors import (
    ArchiveUnavailableError,
    BridgeError,
    SchemaError,
    SettingsError,
    UnsupportedServerError,
)

LATEST = load()[-1].version
BEFORE_TENANTS = 6
SCHEMAS = ["public", "calls", "Weird schema", 'a "quoted" name', "Ünïcode"]

# Every object in a schema, in words that another schema's same object has too.
CATALOGUE = """\
SELECT relkind::text, relname, coalesce(pg_get_expr(relpartbound, class.oid), ''), coalesce(array_agg(
    format('%%s %%s %%s', attname, format_type(atttypid, atttypmod), attnotnull) ORDER BY attnum
) FILTER (WHERE attnum > 0 AND NOT attisdropped), '{}')
FROM pg_class AS class LEFT JOIN pg_attribute ON attrelid = class.oid
WHERE relnamespace = %(schema)s::regnamespace GROUP BY class.oid
UNION ALL
SELECT 'function', format('%%s(%%s)', proname, pg_get_function_identity_arguments(oid)), '', '{}'
FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
ORDER BY 1, 2"""


def catalogue(url: str, schema: str = "public") -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(CATALOGUE, {"schema": sql.Identifier(schema).as_string()}).fetchall()


def run(url: str, statement: str, *parameters: object) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode(), parameters or None)


def versions(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT version FROM session_bridge_migrations ORDER BY version").fetchall()
    return [version for (version,) in found]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_up_down_and_up_again(empty_database_url: str, schema: str) -> None:
    up = migrate(empty_database_url, schema)
    assert [(step.migration.version, step.direction) for step in up] == [(n, "up") for n in range(1, LATEST + 1)]
    made = catalogue(empty_database_url, schema)
    assert "call_sessions" in {name for _, name, _, _ in made}

    down = migrate(empty_database_url, schema, to=0)
    assert [(step.migration.version, step.direction) for step in down] == [(n, "down") for n in range(LATEST, 0, -1)]
    assert catalogue(empty_database_url, schema) == []

    migrate(empty_database_url, schema)
    assert catalogue(empty_database_url, schema) == made


@pytest.mark.parametrize("schema", [schema for schema in SCHEMAS if schema != "public"])
def test_another_schema_leaves_public_alone(empty_database_url: str, schema: str) -> None:
    before = catalogue(empty_database_url)
    migrate(empty_database_url, schema)
    assert catalogue(empty_database_url) == before


def test_each_step_goes_down_alone_and_up_again(empty_database_url: str) -> None:
    seen: list[list[tuple[Any, ...]]] = [[]]
    for version in range(1, LATEST + 1):
        migrate(empty_database_url, to=version)
        seen.append(catalogue(empty_database_url))
    for version in range(LATEST - 1, -1, -1):
        (step,) = migrate(empty_database_url, to=version)
        assert (step.migration.version, step.direction) == (version + 1, "down")
        assert catalogue(empty_database_url) == seen[version]
        migrate(empty_database_url)
        assert catalogue(empty_database_url) == seen[LATEST]
        migrate(empty_database_url, to=version)


def test_goes_down_with_rows_in_it(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for moment in ("1970-01-01Z", "2000-01-01Z", "now"):
            connection.execute(
                "INSERT INTO call_analysis (session_id, data) VALUES (session_id_floor(%s::timestamptz), '{}')",
                (moment,),
            )
    migrate(database_url, to=0)
    assert catalogue(database_url) == []


def test_a_second_run_does_nothing(database_url: str) -> None:
    assert pending(database_url) == []
    assert migrate(database_url) == []


def test_notes_when_each_was_applied(empty_database_url: str) -> None:
    moment = ids.now()
    migrate(empty_database_url, now=lambda: moment)
    with psycopg.connect(empty_database_url) as connection:
        noted = connection.execute("SELECT DISTINCT applied_at FROM session_bridge_migrations").fetchall()
    assert noted == [(moment,)]


@pytest.mark.parametrize("schema", ["public", "calls"])
@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_many_at_once(empty_database_url: str, schema: str, isolation: str) -> None:
    options = "-c default_transaction_isolation=" + isolation.replace(" ", r"\ ")
    url = psycopg.conninfo.make_conninfo(empty_database_url, options=options)
    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(lambda _: migrate(url, schema), range(6)))
    assert sorted(step.migration.version for run in runs for step in run) == list(range(1, LATEST + 1))
    with ThreadPoolExecutor(6) as threads:
        runs = list(threads.map(lambda _: migrate(url, schema, to=0), range(6)))
    assert sorted(step.migration.version for run in runs for step in run) == list(range(1, LATEST + 1))
    assert catalogue(url, schema) == []


def test_two_schemas_of_one_database_do_not_meet(empty_database_url: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda schema: migrate(empty_database_url, schema), ("one", "two")))
    migrate(empty_database_url, "one", to=0)
    assert pending(empty_database_url, "two") == []


def test_a_failed_step_leaves_the_ones_before_it(empty_database_url: str) -> None:
    migrate(empty_database_url, to=1)
    run(empty_database_url, "CREATE TABLE call_metrics_default (theirs integer)")
    with pytest.raises(SchemaError, match=r"0002_partitions .*call_metrics_default.*SESSION_BRIDGE_SCHEMA"):
        migrate(empty_database_url)
    assert versions(empty_database_url) == [1]
    run(empty_database_url, "DROP TABLE call_metrics_default")
    migrate(empty_database_url)
    assert versions(empty_database_url) == list(range(1, LATEST + 1))


def test_a_step_that_was_undone_for_a_deadlock_is_taken_again(database_url: str) -> None:
    """As an autovacuum does it: it holds a table, and wants the catalogue's row that the step has changed."""
    with psycopg.connect(database_url) as other, psycopg.connect(database_url, autocommit=True) as watcher:
        # Of the two, the step is to be the one that PostgreSQL undoes.
        other.execute("SET deadlock_timeout = '1min'")
        [[part]] = other.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'call_messages'::regclass LIMIT 1"
        ).fetchall()
        grant = sql.SQL("GRANT SELECT ON {} TO PUBLIC").format(sql.SQL(part))
        watcher.execute(grant)
        other.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.SQL(part)))
        with ThreadPoolExecutor(1) as thread:
            run_down = thread.submit(migrate, database_url, "public", BEFORE_TENANTS)
            waits = "SELECT count(*) FROM pg_locks WHERE relation = %s::regclass AND NOT granted"
            until(lambda: watcher.execute(waits, (part,)).fetchone() == (1,))
            other.execute(grant)
            other.rollback()
            done = run_down.result()
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        until(lambda: watcher.execute(deadlocks).fetchone() == (1,), "there was no deadlock")
    assert [step.migration.version for step in done] == list(range(LATEST, BEFORE_TENANTS, -1))
    migrate(database_url)


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow_database_url(request: pytest.FixtureRequest, postgres: Any) -> Iterator[str]:
    """The address of a database that cannot hold every text."""
    name = f"narrow_{request.param}"
    create = "CREATE DATABASE {} ENCODING {} LOCALE 'C' TEMPLATE template0"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL(create).format(sql.Identifier(name), sql.Literal(request.param)))
        yield postgres.url_of(name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_refuses_a_database_that_cannot_hold_every_text(narrow_database_url: str) -> None:
    told = r"encoding of database narrow_\w+ is \w+, .*: make one by `CREATE DATABASE name ENCODING 'UTF8'"
    for call in (migrate, pending):
        with pytest.raises(UnsupportedServerError, match=told):
            call(narrow_database_url)
    # Its tables may have been made by hand.
    async with await psycopg.AsyncConnection.connect(narrow_database_url, autocommit=True) as connection:
        with pytest.raises(UnsupportedServerError, match=told):
            await require_current(connection, "public")
    assert "call_sessions" not in {name for _, name, _, _ in catalogue(narrow_database_url)}


@pytest.mark.parametrize("call", [migrate, pending])
def test_refuses_a_changed_text(database_url: str, call: Callable[[str], object]) -> None:
    run(database_url, "UPDATE session_bridge_migrations SET checksum = 'other' WHERE version = 1")
    with pytest.raises(SchemaError, match=r"0001_archive was applied with another text.*Put its old text back"):
        call(database_url)


@pytest.mark.parametrize("call", [migrate, pending])
def test_refuses_the_archive_of_a_later_version(database_url: str, call: Callable[[str], object]) -> None:
    run(
        database_url,
        "INSERT INTO session_bridge_migrations (version, name, checksum) VALUES (%s, 'future', '')",
        LATEST + 1,
    )
    with pytest.raises(SchemaError, match=rf"{LATEST + 1:04d}_future, but this version .*install the later version"):
        call(database_url)


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE call_sessions (id serial PRIMARY KEY)",
        "CREATE VIEW call_sessions AS SELECT 1 AS id",
        "CREATE SEQUENCE call_sessions",
    ],
)
def test_refuses_a_relation_that_it_did_not_make(empty_database_url: str, theirs: str) -> None:
    run(empty_database_url, theirs)
    before = catalogue(empty_database_url)
    for call in (migrate, pending):
        with pytest.raises(SchemaError, match=r'schema "public" has a call_sessions .*SESSION_BRIDGE_SCHEMA='):
            call(empty_database_url)
    assert catalogue(empty_database_url) == before
    migrate(empty_database_url, "session_bridge")
    assert catalogue(empty_database_url) == before


def test_refuses_a_function_that_it_did_not_make(empty_database_url: str) -> None:
    run(empty_database_url, "CREATE FUNCTION session_month(uuid) RETURNS date RETURN NULL::date")
    with pytest.raises(SchemaError, match=r"session_month .*SESSION_BRIDGE_SCHEMA="):
        migrate(empty_database_url)


def test_refuses_a_later_migrations_table_before_the_first_step(empty_database_url: str) -> None:
    run(empty_database_url, "CREATE TABLE session_bridge_partitioned_tables (theirs integer)")
    with pytest.raises(SchemaError, match="session_bridge_partitioned_tables"):
        migrate(empty_database_url)
    assert [name for _, name, _, _ in catalogue(empty_database_url)] == ["session_bridge_partitioned_tables"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_script_makes_the_same(empty_database_url: str, schema: str) -> None:
    migrate(empty_database_url, schema)
    made = catalogue(empty_database_url, schema)
    migrate(empty_database_url, schema, to=0)

    run(empty_database_url, script(schema=schema))
    assert catalogue(empty_database_url, schema) == made
    assert migrate(empty_database_url, schema) == []

    run(empty_database_url, script(schema=schema, since=LATEST, to=0))
    assert catalogue(empty_database_url, schema) == []


def test_the_script_goes_on_from_a_version(empty_database_url: str) -> None:
    run(empty_database_url, script(to=1))
    assert [migration.version for migration in pending(empty_database_url)] == list(range(2, LATEST + 1))
    run(empty_database_url, script(since=1))
    assert pending(empty_database_url) == []


def test_the_script_is_all_or_nothing(empty_database_url: str) -> None:
    run(empty_database_url, "CREATE TABLE call_messages_default (theirs integer)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        run(empty_database_url, script())
    assert [name for _, name, _, _ in catalogue(empty_database_url)] == ["call_messages_default"]


async def test_a_worker_asks_for_the_missing_ones(empty_database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url) as connection:
        with pytest.raises(SchemaError, match=r"needs migration\(s\) 0001_archive, .*run `session-bridge migrate`"):
            await require_current(connection, "public")
        migrate(empty_database_url, to=1)
        with pytest.raises(SchemaError, match=r"needs migration\(s\) 0002_partitions"):
            await require_current(connection, "public")
        migrate(empty_database_url)
        await require_current(connection, "public")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with pytest.raises(SchemaError, match="0001_archive"):
            await require_current(connection, "elsewhere")
    with psycopg.connect(empty_database_url) as waiting:
        require_current_sync(waiting, "public")
        with pytest.raises(SchemaError, match="0001_archive"):
            require_current_sync(waiting, "elsewhere")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ArchiveUnavailableError) as caught:
            migrate(f"postgresql://user:hunter2@127.0.0.1:{port}/calls")
    assert f"127.0.0.1, port {port}" in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)
    assert_clean(caught.value)


def test_an_address_that_is_none() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL is not an address") as caught:
        migrate("user:hunter2 at somewhere")
    assert caught.value.__cause__ is None
    assert_clean(caught.value)


def test_a_database_that_is_not_there(empty_database_url: str) -> None:
    with pytest.raises(ArchiveUnavailableError, match='"nowhere" does not exist') as caught:
        migrate(urlsplit(empty_database_url)._replace(path="/nowhere").geturl())
    assert_clean(caught.value)


def assert_clean(error: BridgeError) -> None:
    assert "hunter2" not in str(error)
    assert "\n" not in str(error)


def test_a_role_that_may_not_create(empty_database_url: str) -> None:
    # Roles belong to the server and outlive this database.
    run(empty_database_url, "CREATE ROLE migrations_reader LOGIN")
    try:
        reader = psycopg.conninfo.make_conninfo(empty_database_url, user="migrations_reader")
        with pytest.raises(SchemaError, match=r"0001_archive \(up\): permission denied.*--sql"):
            migrate(reader)
        with pytest.raises(SchemaError, match=r"0001_archive \(up\): permission denied.*--sql"):
            migrate(reader, "another")
    finally:
        run(empty_database_url, "DROP ROLE migrations_reader")


def test_a_server_that_only_reads(empty_database_url: str) -> None:
    replica = psycopg.conninfo.make_conninfo(empty_database_url, options="-c default_transaction_read_only=on")
    with pytest.raises(ArchiveUnavailableError, match=r"0001_archive \(up\): this server only reads"):
        migrate(replica)


def test_what_others_built_on_it_stops_the_way_back(database_url: str) -> None:
    run(database_url, "CREATE VIEW theirs AS SELECT count(*) FROM call_sessions")
    with pytest.raises(SchemaError, match=r"0001_archive \(down\): cannot drop"):
        migrate(database_url, to=0)
    assert versions(database_url) == [1]


@pytest.mark.parametrize("schema", ["", "x" * 64, "pg_mine", "$user", "a\0b"])
def test_a_name_that_no_schema_can_have(empty_database_url: str, schema: str) -> None:
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_SCHEMA"):
        migrate(empty_database_url, schema)
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_SCHEMA"):
        script(schema=schema)


@pytest.mark.parametrize("to", [-1, LATEST + 1])
def test_a_version_that_there_is_not(empty_database_url: str, to: int) -> None:
    with pytest.raises(SchemaError, match=f"there is no migration {to}"):
        migrate(empty_database_url, to=to)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["0001_a.up.sql"], "0001_a has no down file"),
        (["0001_a.down.sql"], "0001_a has no up file"),
        (["0001_a.up.sql", "0001_a.down.sql", "0003_c.up.sql", "0003_c.down.sql"], "without a gap"),
        (["0001_a.up.sql", "0001_a.down.sql", "0001_b.up.sql", "0001_b.down.sql"], "without a gap"),
        ([], "there are: none"),
    ],
)
def test_a_folder_that_is_broken(tmp_path: Path, files: list[str], message: str) -> None:
    for name in [*files, "notes.txt"]:
        (tmp_path / name).touch()
    with pytest.raises(SchemaError, match=message):
        read_folder(tmp_path)


def test_a_missing_folder_is_told_as_a_broken_installation(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="there are: none; install call-session-bridge again"):
        read_folder(tmp_path / "schema")


def test_line_endings_do_not_change_a_text(tmp_path: Path) -> None:
    (tmp_path / "0001_a.down.sql").touch()
    checksums = set()
    for ending in (b"\n", b"\r\n"):
        (tmp_path / "0001_a.up.sql").write_bytes(ending.join([b"SELECT 1;", b"SELECT 2;", b""]))
        checksums.add(read_folder(tmp_path)[0].checksum)
    assert len(checksums) == 1
