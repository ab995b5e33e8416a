"""The months of the partitioned tables: made ahead of time, and counted.

What a month is, and how one is made, is written once, in the SQL functions of migration 0002, where pg_cron and psql
reach it as well. Here it is only run in the better shape: each table and month in a transaction of its own, so that no
lock is held longer than that one partition needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from psycopg import (
    AsyncConnection,
    DataError,
    Error,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
    errors,
    sql,
)
from psycopg.rows import tuple_row

from session_bridge.errors import ArchiveUnavailableError, SchemaError

MONTHS_AHEAD = 3
MONTHS_BACK = 2
"""A session id lies at most 35 days before the call was first seen, which is never more than two months."""

COUNTED_ROWS = 10_000
"""Default partitions are counted up to here: more is a reason to act, however many more."""

_MONTH = re.compile(r".*_y(\d{4})m(\d{2})")

# And past months whose rows wait in a default partition, because nobody made them while they lasted.
_MISSING = "SELECT parent, month FROM {}(%s, %s) UNION SELECT parent, month FROM {}() ORDER BY month, parent"
# What another worker made while this one waited for a lock must be seen, whatever the database's default is.
_SEE_COMMITTED = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
_CREATE = "SELECT {}(%s, %s)"
_PARTITIONS = """\
SELECT ours.table_name, array_agg(child.relname ORDER BY child.relname)
FROM {} AS ours
JOIN pg_class AS parent ON parent.relname = ours.table_name AND parent.relnamespace = (
    SELECT oid FROM pg_namespace WHERE nspname = %s
)
JOIN pg_inherits ON inhparent = parent.oid
JOIN pg_class AS child ON child.oid = inhrelid
GROUP BY ours.table_name
ORDER BY ours.table_name"""
_COUNT_BOUNDED = "SELECT count(*) FROM (SELECT FROM {} LIMIT %s) AS counted"


@dataclass(frozen=True)
class PartitionStatus:
    """The partitions of one table."""

    table: str
    months: tuple[date, ...]
    """The first days of the months that have a partition, in order."""
    default_rows: int
    """Rows of months without one; `COUNTED_ROWS + 1` stands for any larger number."""


async def ensure_partitions(
    connection: AsyncConnection[Any], schema: str, months_ahead: int = MONTHS_AHEAD, months_back: int = MONTHS_BACK
) -> list[str]:
    """Make the partitions that are missing around the present month; rows that wait in the default ones move in.

    Safe at any time and from several workers at once. A table that somebody reads at length is left alone until the
    next run: no row is refused meanwhile, it goes to the default partition. The connection must not be in a
    transaction, or each lock would be held until its end.

    Returns:
        The names of the partitions made by this call.

    Raises:
        SchemaError: PostgreSQL refused a partition, for instance because a table of its name is there. Every other
            partition was tried before this is raised.
        ArchiveUnavailableError: The connection was lost.
    """
    made: list[str] = []
    busy: set[str] = set()
    refused: dict[str, Error] = {}
    try:
        for table, month in await _missing(connection, schema, months_ahead, months_back):
            if table in busy:
                continue
            try:
                partition = await _create(connection, schema, table, month)
            except (errors.LockNotAvailable, errors.DeadlockDetected, errors.QueryCanceled):
                busy.add(table)
            except (DataError, IntegrityError, InternalError, ProgrammingError) as error:
                refused[f"{table} for {month:%Y-%m}"] = error
            else:
                made += [partition] if partition else []
    except OperationalError as error:
        raise ArchiveUnavailableError(
            f"the partitions could not be made ({error}): this will be tried again"
        ) from error
    except Error as error:
        raise SchemaError(
            f"the missing partitions could not be looked up ({error.diag.message_primary}): run "
            f'`session-bridge migrate`, or check the rights on schema "{schema}"'
        ) from error
    for what, refusal in refused.items():
        raise SchemaError(
            f"the partition of {what} could not be made ({refusal.diag.message_primary}; {len(refused)} in all): its "
            "rows wait in the default partition. Settle what PostgreSQL says; where the worker may not create tables, "
            "let their owner run `SELECT create_monthly_partitions()` every month"
        ) from refusal
    return made


async def partition_status(connection: AsyncConnection[Any], schema: str) -> list[PartitionStatus]:
    """The months of every partitioned table of ours, and the rows that lie outside of them."""
    found = []
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        ours = sql.Identifier(schema, "session_bridge_partitioned_tables")
        await cursor.execute(sql.SQL(_PARTITIONS).format(ours), (schema,))
        for table, partitions in await cursor.fetchall():
            count = sql.SQL(_COUNT_BOUNDED).format(sql.Identifier(schema, f"{table}_default"))
            await cursor.execute(count, (COUNTED_ROWS + 1,))
            row = await cursor.fetchone()
            found.append(PartitionStatus(table, _months(partitions), row[0] if row else 0))
    return found


async def _missing(
    connection: AsyncConnection[Any], schema: str, months_ahead: int, months_back: int
) -> list[tuple[str, date]]:
    functions = ("missing_monthly_partitions", "late_monthly_partitions")
    missing = sql.SQL(_MISSING).format(*[sql.Identifier(schema, function) for function in functions])
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(missing, (months_ahead, months_back))
        return await cursor.fetchall()


async def _create(connection: AsyncConnection[Any], schema: str, table: str, month: date) -> str | None:
    create = sql.SQL(_CREATE).format(sql.Identifier(schema, "create_monthly_partition"))
    async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_SEE_COMMITTED)
        await cursor.execute(create, (table, month))
        row = await cursor.fetchone()
        return row[0] if row else None


def _months(partitions: Sequence[str]) -> tuple[date, ...]:
    named = filter(None, map(_MONTH.fullmatch, partitions))
    return tuple(date(int(month[1]), int(month[2]), 1) for month in named)
