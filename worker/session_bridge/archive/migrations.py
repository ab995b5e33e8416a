"""The archive's migrations: numbered SQL files, each with its way back, applied once and in order.

A migration is the pair `NNNN_name.up.sql` and `NNNN_name.down.sql`. What was applied is written in the table
`session_bridge_migrations` of the archive's schema, with the digest of its text, so that a file changed afterwards
is noticed instead of being believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from session_bridge.archive.migration_connection import (
    ADVICE_ON_FOREIGN,
    check_name,
    connect,
    require_supported,
    wrapped,
)
from session_bridge.archive.migration_files import Migration, load
from session_bridge.contract import ids
from session_bridge.errors import SchemaError

Direction = Literal["up", "down"]

# A migration waits for its turn as long as another one runs, but never long for a table: those who come after it
# would stand in the same queue.
_WAIT_FOR_TURN = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"
_WAIT_FOR_TABLES = "SET LOCAL lock_timeout = '10s'"
# Of one step, before a deadlock is told to whoever asked for it.
_TRIES = 5

_BOOK = """\
CREATE TABLE IF NOT EXISTS session_bridge_migrations (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""
# Asked of the catalogue's rows: to_regclass() answers from a cache that may be as old as the transaction, and this is
# asked after a wait for the lock.
_HAS_BOOK = """\
SELECT EXISTS (
    SELECT FROM pg_class JOIN pg_namespace AS schema ON schema.oid = relnamespace
    WHERE nspname = %s AND relname = 'session_bridge_migrations'
)"""
_READ_BOOK = "SELECT version, name, checksum FROM {} ORDER BY version"
_ENTER = "INSERT INTO session_bridge_migrations (version, name, checksum, applied_at) VALUES (%s, %s, %s, %s)"
_ENTER_BY_HAND = "INSERT INTO session_bridge_migrations (version, name, checksum) VALUES ({}, {}, {})"
_STRIKE = "DELETE FROM session_bridge_migrations WHERE version = %s"
_CLOSE_BOOK = "DROP TABLE session_bridge_migrations"

_TAKEN_NAMES = """\
SELECT relname FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) AND relname = ANY (%(names)s)
UNION
SELECT proname FROM pg_proc
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) AND proname = ANY (%(names)s)
ORDER BY 1"""


@dataclass(frozen=True)
class Applied:
    """One step that `migrate` took."""

    migration: Migration
    direction: Direction


@dataclass(frozen=True)
class _Entry:
    """A line of the book: a migration as it was when it was applied."""

    version: int
    name: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"


def migrate(
    database_url: str,
    schema: str = "public",
    to: int | None = None,
    now: Callable[[], datetime] = ids.now,
) -> list[Applied]:
    """Bring the archive to a version, the latest unless `to` says another; lower than the present one goes down.

    Each migration is a transaction of its own, so a failure leaves the ones before it in place. Any number of
    processes may do this at once: a lock of the transaction (there are no others behind PgBouncer in transaction
    mode) lets one pass at a time, and what is still to do is decided after it is held.

    Returns:
        What was done, in order; empty when there was nothing to do.

    Raises:
        SchemaError: The archive is not what this version can migrate, or PostgreSQL refused a migration.
        ArchiveUnavailableError: The server cannot be reached, or a table stayed locked.
        SettingsError: The address or the schema's name cannot be used.
        UnsupportedServerError: PostgreSQL is older than `OLDEST_SERVER`, or the database's encoding is not UTF-8.
    """
    migrations = load()
    target = _target(migrations, to)
    done = []
    with connect(database_url, schema) as connection:
        with wrapped("reading what was applied"):
            current = len(_verified(migrations, _read_book(connection, schema)))
        direction: Direction = "up" if current <= target else "down"
        for migration in _between(migrations, current, target):
            with wrapped(f"migration {migration} ({direction})"):
                if _in_transaction(connection, partial(_step, connection, schema, migration, direction, now)):
                    done.append(Applied(migration, direction))
    return done


def pending(database_url: str, schema: str = "public") -> list[Migration]:
    """The migrations that `migrate` would apply; it raises what `migrate` would raise before the first."""
    migrations = load()
    with connect(database_url, schema) as connection, wrapped("reading what was applied"):
        applied = _verified(migrations, _read_book(connection, schema))
        _refuse_foreign(connection, schema, migrations, len(applied))
    return list(migrations[len(applied) :])


async def require_current(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Make sure that the archive is at the version this package works with.

    Raises:
        SchemaError: A migration is missing, was changed, or is of a later version; the message says what to do.
        UnsupportedServerError: The archive cannot be in this database.
    """
    require_supported(connection.info)
    entries: list[_Entry] = []
    with wrapped("reading what was applied"):
        try:
            async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(_HAS_BOOK, (schema,))
                if await cursor.fetchone() == (True,):
                    await cursor.execute(_book_of(schema))
                    entries = [_Entry(*row) for row in await cursor.fetchall()]
        except errors.UndefinedTable:
            entries = []
    _refuse_behind(entries)


def require_current_sync(connection: psycopg.Connection[Any], schema: str) -> None:
    """`require_current` for a connection that is not asynchronous."""
    with wrapped("reading what was applied"):
        entries = _read_book(connection, schema)
    _refuse_behind(entries)


def script(to: int | None = None, schema: str = "public", since: int = 0) -> str:
    """The same steps as plain SQL, for those who let nothing but psql change their database.

    It is one transaction, so that a failure in the middle leaves nothing behind even in a client that runs on after
    errors. Afterwards `migrate` finds nothing to do.

    Args:
        to: The version to reach; the latest by default. Lower than `since` is the way back.
        schema: The archive's schema.
        since: The version that the archive is at; 0 is an empty one.
    """
    migrations = load()
    target = _target(migrations, to)
    check_name(schema)
    lines = [
        f"-- session-bridge: the archive's schema from version {since} to {target}.",
        "BEGIN ISOLATION LEVEL READ COMMITTED;",
        "",
    ]
    lines += [f"SELECT pg_advisory_xact_lock({_lock_key(schema)});"]
    if since == 0 and schema != "public":
        lines += [f"CREATE SCHEMA IF NOT EXISTS {sql.Identifier(schema).as_string()};"]
    lines += [_search_path(schema).as_string() + ";"]
    if since == 0:
        lines += [_BOOK + ";"]
    for migration in _between(migrations, since, target):
        lines += ["", f"-- {migration}"]
        if since <= target:
            entry = sql.SQL(_ENTER_BY_HAND).format(migration.version, migration.name, migration.checksum)
            lines += [migration.up.rstrip(), entry.as_string() + ";"]
        else:
            lines += [migration.down.rstrip(), _STRIKE.replace("%s", str(migration.version)) + ";"]
            lines += [_CLOSE_BOOK + ";"] if migration.version == 1 else []
    return "\n".join([*lines, "", "COMMIT;", ""])


def _target(migrations: Sequence[Migration], to: int | None) -> int:
    latest = migrations[-1].version
    if to is None:
        return latest
    if not 0 <= to <= latest:
        raise SchemaError(
            f"there is no migration {to}: this version of session-bridge knows 1 to {latest}, and 0 is none"
        )
    return to


def _between(migrations: Sequence[Migration], current: int, target: int) -> list[Migration]:
    if current <= target:
        return list(migrations[current:target])
    return list(reversed(migrations[target:current]))


def _in_transaction(connection: psycopg.Connection[Any], step: Callable[[], bool]) -> bool:
    """What `step` returns, in a transaction of its own.

    It is taken again if PostgreSQL undid it for a deadlock: an autovacuum, for one, holds a table and waits for its row
    in the catalogue, which a REVOKE holds that goes on to the table.
    """
    tries_left = _TRIES
    while True:
        try:
            with connection.transaction():
                return step()
        except errors.DeadlockDetected:
            tries_left -= 1
            if not tries_left:
                raise


def _step(
    connection: psycopg.Connection[Any],
    schema: str,
    migration: Migration,
    direction: Direction,
    now: Callable[[], datetime],
) -> bool:
    """Take one step inside the caller's transaction; False when another process has taken it meanwhile."""
    connection.execute(_WAIT_FOR_TURN)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_key(schema),))
    connection.execute(_WAIT_FOR_TABLES)
    migrations = load()
    current = len(_verified(migrations, _read_book(connection, schema)))
    before, after = migration.version - 1, migration.version
    if direction == "down":
        before, after = after, before
    if (current >= after) if direction == "up" else (current <= after):
        return False
    if current != before:
        raise SchemaError(
            f"another process moves this archive the other way (it is at {current:04d} now): "
            "let it finish, then run `session-bridge migrate` again"
        )
    if direction == "up":
        _refuse_foreign(connection, schema, migrations, current)
        _prepare_schema(connection, schema)
    connection.execute(_search_path(schema))
    if direction == "up":
        connection.execute(_BOOK)
        connection.execute(migration.up.encode())
        connection.execute(_ENTER, (migration.version, migration.name, migration.checksum, now()))
    else:
        connection.execute(migration.down.encode())
        connection.execute(_STRIKE, (migration.version,))
        if after == 0:
            connection.execute(_CLOSE_BOOK)
    return True


def _prepare_schema(connection: psycopg.Connection[Any], schema: str) -> None:
    # CREATE SCHEMA IF NOT EXISTS asks for the right to create even where there is nothing to create.
    found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if not found and schema != "public":
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _search_path(schema: str) -> sql.Composed:
    # pg_catalog is searched first without being named; pg_temp is named so that it comes last and not before it.
    return sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema))


def _lock_key(schema: str) -> int:
    digest = hashlib.sha256(f"session-bridge migrations of {schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _read_book(connection: psycopg.Connection[Any], schema: str) -> list[_Entry]:
    try:
        with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(_HAS_BOOK, (schema,))
            if cursor.fetchone() == (True,):
                cursor.execute(_book_of(schema))
                return [_Entry(*row) for row in cursor.fetchall()]
    except errors.UndefinedTable:
        # Another process took the last step down between the two questions.
        pass
    return []


def _book_of(schema: str) -> sql.Composed:
    return sql.SQL(_READ_BOOK).format(sql.Identifier(schema, "session_bridge_migrations"))


def _verified(migrations: Sequence[Migration], entries: Sequence[_Entry]) -> Sequence[_Entry]:
    """The book's entries, once they are known to be the first of our own migrations, unchanged."""
    known: Mapping[int, Migration] = {migration.version: migration for migration in migrations}
    for number, entry in enumerate(entries, start=1):
        if entry.version not in known:
            raise SchemaError(
                f"the archive is at migration {entries[-1]}, but this version of session-bridge knows only up to "
                f"{migrations[-1]}: install the later version that made it"
            )
        if entry.version != number:
            raise SchemaError(
                f"the archive's book has migration {entry} without number {number:04d} before it: "
                "restore the table session_bridge_migrations from a backup"
            )
        if (entry.name, entry.checksum) != (known[number].name, known[number].checksum):
            raise SchemaError(
                f"migration {entry} was applied with another text than {known[number]} has now: a migration never "
                "changes once it is applied. Put its old text back (install the version that applied it), "
                "and make the change in a new migration"
            )
    return entries


def _refuse_behind(entries: Sequence[_Entry]) -> None:
    migrations = load()
    applied = len(_verified(migrations, entries))
    if missing := migrations[applied:]:
        names = ", ".join(map(str, missing))
        raise SchemaError(f"the archive needs migration(s) {names}: run `session-bridge migrate`")


def _refuse_foreign(
    connection: psycopg.Connection[Any], schema: str, migrations: Sequence[Migration], applied: int
) -> None:
    """Refuse, before the first step, if anything that is still to be made is there already."""
    ours = frozenset[str]().union(*(migration.creates for migration in migrations[:applied]))
    names = frozenset[str]().union(*(migration.creates for migration in migrations[applied:])) - ours
    cursor = connection.cursor(row_factory=tuple_row)
    taken = cursor.execute(_TAKEN_NAMES, {"schema": schema, "names": sorted(names)}).fetchall()
    if taken:
        listed = ", ".join(str(row[0]) for row in taken)
        raise SchemaError(f'schema "{schema}" has a {listed} of its own; {ADVICE_ON_FOREIGN}')
