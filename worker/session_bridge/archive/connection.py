"""Connections to the archive, and the one place where the driver's errors become ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, Self, TypeAlias, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor, sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from session_bridge.archive.address import parameters_of
from session_bridge.archive.migrations import require_current
from session_bridge.archive.sql import QUERIES
from session_bridge.errors import (
    ArchiveUnavailableError,
    BridgeError,
    DataRefusedError,
    LockedError,
    TransactionTimeoutError,
)

Connection: TypeAlias = "AsyncConnection[tuple[Any, ...]]"
Cursor: TypeAlias = "AsyncCursor[tuple[Any, ...]]"

SHORT_WAIT = b"SET LOCAL lock_timeout = '500ms'"
"""For a transaction that had rather fail, with LockedError, than wait for what another one has locked."""

_TRANSACTION_TIMEOUT_SINCE = 170000
# The pool is asked in so many tries of so many seconds.
_TRIES, _TRY_SECONDS = 10, 1.0
_POOL_SECONDS = _TRIES * _TRY_SECONDS
# The third time a statement comes on a connection it is prepared. The driver forgets what is prepared at a rollback, so
# that a statement which fails because its table was changed is prepared anew.
_PREPARED_FROM = 2
# A server that died without a word is noticed by these, not by TCP's own quarter of an hour.
_SOCKET_OPTIONS: dict[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


class ArchiveConnections:
    """A pool of connections to one archive.

    `transaction_seconds` limits each transaction on the server and, with some patience more, here: a network that
    swallows everything must not hold a drain for ever.
    """

    def __init__(self, database_url: str, *, schema: str, size: int, transaction_seconds: float) -> None:
        given = parameters_of(database_url)
        options = {name: value for name, value in _SOCKET_OPTIONS.items() if name not in given}
        options.setdefault("application_name", "session-bridge")  # type: ignore[arg-type]  # conninfo takes text too
        if "application_name" in given:
            options.pop("application_name")
        self._seconds = transaction_seconds
        self._schema = schema
        self._pool = AsyncConnectionPool[Connection](
            make_conninfo(database_url, **options, client_encoding="UTF8"),
            connection_class=_Connecting,
            min_size=0,
            max_size=size,
            open=False,
            reconnect_timeout=0,
            configure=_make_ready,
            kwargs={"autocommit": True, "prepare_threshold": None, "tell": self._note},
        )
        self._refusal = ""
        self._reached = False
        self._begin: bytes | None = None
        self._identity: str | None = None

    async def open(self) -> Self:
        """Make the pool ready; connections are made when they are needed."""
        await self._pool.open()
        return self

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(timeout=2)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def require_current(self) -> None:
        """Raise SchemaError if the archive's tables are not those of this version."""
        with archive_errors():
            async with self._connection() as connection:
                await require_current(connection, self._schema)

    async def identity(self) -> str:
        """The identity of this archive, a UUID as text; it is asked for once."""
        if self._identity is None:
            async with self.transaction() as connection:
                [[identity]] = await fetch(connection, "archive_identity")
            self._identity = cast("str", identity)
        return self._identity

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Connection]:
        """A connection of the pool, in no transaction and in no schema."""
        with archive_errors():
            async with self._connection() as connection:
                yield connection

    async def ask(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows of the named query, in one round trip: without a transaction around it, it names the schema itself.

        Raises the same errors as `transaction`.
        """
        query = _with_schema(name, self._schema)
        with archive_errors():
            async with asyncio.timeout(self._seconds * 1.5 + _POOL_SECONDS), self._connection() as connection:
                # Not prepared: with no rollback to follow, the driver would keep a plan that no longer fits its table.
                return await (await connection.execute(query, parameters, prepare=False)).fetchall()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction on a connection of the pool, in the archive's schema, committed at the end.

        Raises DataRefusedError, TransactionTimeoutError or ArchiveUnavailableError in place of the driver's errors.
        """
        with archive_errors():
            async with asyncio.timeout(self._seconds * 1.5 + _POOL_SECONDS), self._connection() as connection:
                # Before the server's own clock begins: an error that is its time limit comes no sooner than that.
                began = asyncio.get_running_loop().time()
                await connection.execute(self._begin or self._begin_statement(connection))
                try:
                    yield connection
                except BaseException as error:
                    # What cannot be rolled back now is closed, which rolls it back; the first error is the one to tell.
                    with contextlib.suppress(psycopg.Error):
                        await connection.rollback()
                    spent = asyncio.get_running_loop().time() - began
                    if isinstance(error, psycopg.OperationalError) and not error.sqlstate and spent >= self._seconds:
                        # In a pipeline the driver loses the word with which the server hangs up.
                        raise _out_of_time(_first_line(error)) from error
                    raise
                await connection.execute(b"COMMIT", prepare=False)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool, made if need be; PoolTimeout tells what the server said if it lets nobody in."""
        connection = await self._take()
        try:
            yield connection
        finally:
            await self._pool.putconn(connection)

    async def _take(self) -> Connection:
        for _ in range(_TRIES):
            # A pool that cannot connect tells nobody who waits for it, and tries again only when it is asked again.
            with contextlib.suppress(PoolTimeout):
                return await self._pool.getconn(_TRY_SECONDS)
            if self._refusal and not self._reached:
                # What was never there is not waited for: most likely its address is wrong.
                break
        raise PoolTimeout(self._refusal or f"no connection was free for {_POOL_SECONDS:g} s")

    def _note(self, refusal: str) -> None:
        self._refusal = refusal
        self._reached |= not refusal

    def _begin_statement(self, connection: Connection) -> bytes:
        """`BEGIN` with this archive's schema and limits: one round trip, and nothing a PgBouncer would mix up."""
        milliseconds = int(self._seconds * 1000)
        # A lock is waited for less long: so it is known from a call that takes too long by itself.
        limits = {"lock_timeout": milliseconds // 2}
        limits |= dict.fromkeys(("statement_timeout", "idle_in_transaction_session_timeout"), milliseconds)
        if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
            limits["transaction_timeout"] = milliseconds
        else:
            # In a pipeline no session counts as idle: when a worker's machine dies there, only TCP can tell the server,
            # and by default that takes two hours, for which its calls stay locked.
            seconds = max(1, milliseconds // 1000)
            limits |= {"tcp_keepalives_idle": seconds, "tcp_keepalives_interval": seconds}
            limits["tcp_user_timeout"] = milliseconds
        statement = sql.SQL("; ").join(
            [
                # Under a stricter level nobody would see what was committed while he waited for a lock.
                sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED"),
                sql.SQL("SET LOCAL search_path = {}, pg_catalog").format(sql.Identifier(self._schema)),
                sql.SQL("SET LOCAL timezone = 'UTC'"),
                # What is read back is what was written, to the last digit.
                sql.SQL("SET LOCAL extra_float_digits = 1"),
                *[sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), limit) for name, limit in limits.items()],
            ]
        )
        self._begin = statement.as_bytes(connection)
        return self._begin


class _Connecting(AsyncConnection[tuple[Any, ...]]):
    """A connection that tells why it could not be made, or "" once it is: its pool keeps that to itself."""

    @classmethod
    async def connect(cls, conninfo: str = "", *, tell: Callable[[str], None], **kwargs: Any) -> Self:  # type: ignore[override]  # noqa: ANN401  # as the driver has it
        try:
            connection = await super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            tell(_first_line(error))
            raise
        tell("")
        return connection


@cache
def _with_schema(name: str, schema: str) -> bytes:
    return sql.SQL(QUERIES[name].decode()).format(schema=sql.Identifier(schema)).as_bytes(None)


async def _make_ready(connection: Connection) -> None:
    """Have times told in the one form that the driver reads, and statements prepared that come again and again.

    Not behind a pooler: in transaction mode it may lose those between two transactions, as PgBouncer before 1.21 does.
    It greets with a process id of its own making. How times are told it keeps for each of its clients.
    """
    if not (connection.info.parameter_status("DateStyle") or "").startswith("ISO"):
        await connection.execute(b"SET DateStyle = 'ISO'")
    [process_id] = await (await connection.execute(b"SELECT pg_backend_pid()")).fetchone() or [None]
    if process_id == connection.info.backend_pid:
        connection.prepare_threshold = _PREPARED_FROM


async def fetch(connection: Connection, name: str, **parameters: object) -> list[tuple[Any, ...]]:
    """The rows of the named query."""
    return await (await connection.execute(QUERIES[name], parameters or None)).fetchall()


async def run(connection: Connection, name: str, **parameters: object) -> int:
    """Run the named statement and return how many rows it touched."""
    return (await connection.execute(QUERIES[name], parameters or None)).rowcount


@contextmanager
def archive_errors() -> Iterator[None]:
    """Turn the driver's errors into ours, the cause kept: the data's fault, a time limit, or the server's trouble."""
    try:
        yield
    except BridgeError:
        raise
    except psycopg.Error as error:
        raise _ours(error) from error
    except UnicodeEncodeError as error:
        raise DataRefusedError("a text cannot be encoded in UTF-8") from error
    except OSError as error:
        raise ArchiveUnavailableError(
            f"PostgreSQL does not answer ({_first_line(error)}); check DATABASE_URL and the server"
        ) from error


def _ours(error: psycopg.Error) -> BridgeError:
    """Which of our errors this is.

    Classes 22, 23 and 54 of SQLSTATE are the data's, but for a partition that a row does not fit: that one is made
    anew by trying again. 57014, 25P03, 25P04 and, for a lock, 55P03 are our own time limits. All the rest is the
    server's.
    (https://www.postgresql.org/docs/current/errcodes-appendix.html)
    """
    state, message = error.sqlstate, _first_line(error)
    if state is None:
        if isinstance(error, psycopg.DataError):
            return DataRefusedError("the driver refused the data: a text holds what PostgreSQL cannot")
        return ArchiveUnavailableError(f"PostgreSQL does not answer ({message}); check DATABASE_URL and the server")
    if state == "55P03":
        return LockedError(
            f"another transaction has locked what is to be written ({message}); see pg_stat_activity for who it is"
        )
    if state in ("57014", "25P03", "25P04"):
        return _out_of_time(message)
    if state[:2] in ("22", "23", "54") and not (state == "23514" and error.diag.constraint_name is None):
        return DataRefusedError(f"PostgreSQL refused the data: {state} {type(error).__name__}{_place(error)}")
    return ArchiveUnavailableError(f"PostgreSQL cannot serve now: {state} {message}")


def _out_of_time(message: str) -> TransactionTimeoutError:
    return TransactionTimeoutError(f"a transaction took longer than half a lease allows ({message})")


def _place(error: psycopg.Error) -> str:
    """Where the data was refused. Not the server's own words: they quote what a log must not hold."""
    names = (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)
    return "".join(f" {name}" for name in names if name)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
