"""The connection that migrations run on, and what its errors mean for who asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from session_bridge.archive.address import parameters_of
from session_bridge.errors import ArchiveUnavailableError, SchemaError, SettingsError, UnsupportedServerError

OLDEST_SERVER = 15
"""The oldest PostgreSQL whose features the migrations use (views with `security_invoker`)."""

ADVICE_ON_FOREIGN = (
    "session-bridge touches nothing that it did not make: set SESSION_BRIDGE_SCHEMA=<another schema> "
    "(it is created) and run `session-bridge migrate` again"
)

_LONGEST_IDENTIFIER = 63
_CONNECT_TIMEOUT_SECONDS = 10


def check_name(schema: str) -> None:
    """Raise SettingsError if no schema can have this name."""
    size = len(schema.encode())
    # "$user" is replaced in a search path even between quotes, and PostgreSQL keeps pg_ for itself.
    if not 0 < size <= _LONGEST_IDENTIFIER or "\0" in schema or schema == "$user" or schema.startswith("pg_"):
        raise SettingsError(
            f'SESSION_BRIDGE_SCHEMA: "{schema}" cannot be the name of a schema; take one of 1 to '
            f"{_LONGEST_IDENTIFIER} bytes that does not begin with pg_"
        )


@contextmanager
def connect(database_url: str, schema: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit, of a server that is new enough.

    Raises SettingsError, ArchiveUnavailableError or UnsupportedServerError.
    """
    check_name(schema)
    parameters = parameters_of(database_url)
    patience = parameters.get("connect_timeout") or _CONNECT_TIMEOUT_SECONDS
    try:
        # A PgBouncer in transaction mode may not know prepared statements.
        connection = psycopg.connect(
            database_url, autocommit=True, prepare_threshold=None, connect_timeout=patience, client_encoding="UTF8"
        )
    except psycopg.OperationalError as error:
        host, port = parameters.get("host") or "the local socket", parameters.get("port") or 5432
        raise ArchiveUnavailableError(
            f"cannot reach PostgreSQL at {host}, port {port} ({_first_line(error)}): "
            "check that it runs, and the address in DATABASE_URL"
        ) from error
    # Under a stricter level the state would be the one of before the wait for the lock.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with connection:
        require_supported(connection.info)
        yield connection


def require_supported(server: psycopg.ConnectionInfo) -> None:
    """Raise UnsupportedServerError if the server is too old, or its database cannot hold whatever a call says."""
    if server.server_version < OLDEST_SERVER * 10_000:
        raise UnsupportedServerError(
            f"this is PostgreSQL {server.server_version // 10_000}, and the archive needs "
            f"{OLDEST_SERVER} or newer: upgrade the server"
        )
    encoding = server.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raise UnsupportedServerError(
            f"the encoding of database {server.dbname} is {encoding}, which cannot hold every text: make one by "
            "`CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0`, and name it in DATABASE_URL"
        )


@contextmanager
def wrapped(what: str) -> Iterator[None]:
    """The one place where the driver's errors become ours."""
    try:
        yield
    except (errors.DuplicateTable, errors.DuplicateFunction) as error:
        raise SchemaError(f"{what}: {_first_line(error)}; {ADVICE_ON_FOREIGN}") from error
    except errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"{what}: {_first_line(error)}. Use the role that owns the schema, or let it run what "
            "`session-bridge migrate --sql` prints"
        ) from error
    except errors.ReadOnlySqlTransaction as error:
        raise ArchiveUnavailableError(
            f"{what}: this server only reads; point DATABASE_URL at the primary, or wait for the failover"
        ) from error
    except psycopg.OperationalError as error:
        raise ArchiveUnavailableError(f"{what}: {_first_line(error)}. Nothing is half done: try again") from error
    except psycopg.Error as error:
        raise SchemaError(
            f"{what}: {_first_line(error)}. Nothing of it was kept: settle what PostgreSQL says, then run "
            "`session-bridge migrate` again"
        ) from error


def _first_line(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error)).strip().partition("\n")[0] or type(error).__name__
