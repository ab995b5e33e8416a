"""An exported month, taken back into the archive: all of it but what was erased since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from pathlib import Path

from psycopg import sql

from session_bridge.archive.connection import ArchiveConnections, Connection, fetch, run
from session_bridge.archive.parquet import columns_of, month_of, read_manifest, rows_of
from session_bridge.archive.sql import QUERIES

_STAGE = sql.Identifier("session_bridge_restored")


async def restore_month(
    connections: ArchiveConnections, folder: Path, keep_until: date, progress: Callable[[str], None] = lambda _: None
) -> dict[str, int]:
    """Take a month back, in one transaction, and keep it until that day; returns the rows of each table that came.

    What is in the archive already stays as it is. A call that was erased after the export stays erased. Raises
    ExportError if the folder does not hold what was exported.
    """
    manifest = await asyncio.to_thread(read_manifest, folder)
    month = month_of(manifest)
    came: dict[str, int] = {}
    async with connections.transaction() as connection:
        for table, _, _ in await fetch(connection, "monthly_tables"):
            await connection.execute("SELECT create_monthly_partition(%s, %s)", [table, month])
        await _stage(connection, "call_sids", folder)
        # What the export calls retired it was not before.
        erased = [row[0] for row in await fetch(connection, "erased_since_export")]
        came["call_sids"] = await run(connection, "restore_book", erased=erased)
        await connection.execute(sql.SQL("DROP TABLE {}").format(_STAGE))
        # Chunk texts and the fields of dead sessions come after the rows that tell whether they are wanted.
        last = ("rag_chunk_contents", "dead_session_fields")
        tables = [table for table in manifest.rows if table not in ("call_sids", *last)] + list(last)
        for table in tables:
            if table not in manifest.rows:
                continue
            progress(table)
            columns = await _stage(connection, table, folder)
            came[table] = await _take(connection, table, columns, erased)
            await connection.execute(sql.SQL("DROP TABLE {}").format(_STAGE))
        await run(connection, "restored_states", month=month)
        await run(connection, "note_restored", month=month, keep_until=keep_until)
    return came


async def _stage(connection: Connection, table: str, folder: Path) -> list[str]:
    """Put a file's rows into a temporary table; the columns that both the file and the table have."""
    there = {column.name for column in await columns_of(connection, table)}
    await connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {}) ON COMMIT DROP").format(_STAGE, sql.Identifier(table))
    )
    names: list[str] = []
    for columns, rows in rows_of(folder / f"{table}.parquet"):
        kept = [place for place, column in enumerate(columns) if column.name in there]
        names = [columns[place].name for place in kept]
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(_STAGE, sql.SQL(", ").join(map(sql.Identifier, names)))
        async with connection.cursor() as cursor, cursor.copy(copy) as stream:
            for row in rows:
                await stream.write_row([row[place] for place in kept])
    return names


async def _take(connection: Connection, table: str, columns: list[str], erased: list[object]) -> int:
    if not columns:
        return 0
    key = "id" if table == "call_sessions" else "session_id"
    if table == "rag_chunk_contents":
        wanted: sql.Composable = sql.SQL(QUERIES["contents_wanted"].decode())
    elif table == "dead_session_fields":
        wanted = sql.SQL("EXISTS (SELECT FROM dead_sessions WHERE dead_sessions.id = staged.dead_id)")
    else:
        wanted = sql.SQL("staged.{} IS NULL OR staged.{} <> ALL(%(erased)s)").format(*[sql.Identifier(key)] * 2)
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS staged WHERE {} ON CONFLICT DO NOTHING"
    ).format(sql.Identifier(table), names, names, _STAGE, wanted)
    return (await connection.execute(statement, {"erased": erased})).rowcount
