"""A month of the archive as Parquet files, and back: one file a table, every column with its own type."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from itertools import count
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.rows import tuple_row

from session_bridge.archive.connection import ArchiveConnections, Connection, fetch
from session_bridge.contract.ids import now
from session_bridge.errors import ExportError, MissingExtraError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ModuleNotFoundError as missing:
    raise MissingExtraError(
        "months are written and read with pyarrow: pip install 'call-session-bridge[parquet]'"
    ) from missing

_ROWS_AT_ONCE = 500
_MANIFEST = "manifest.json"
_FORMAT = 1
_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_WIDEST_DECIMAL = 38
_TYPES: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
_COLUMNS = """\
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = quote_ident(%s)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type in PostgreSQL, and in the file. What has no type of its own there is kept as its text."""

    name: str
    postgres_type: str

    @property
    def arrow_type(self) -> pa.DataType:
        """Its type in a Parquet file."""
        if (numeric := _NUMERIC.fullmatch(self.postgres_type)) and int(numeric[1]) <= _WIDEST_DECIMAL:
            return pa.decimal128(int(numeric[1]), int(numeric[2]))
        return _TYPES.get(self.postgres_type, pa.string())

    @property
    def selected(self) -> sql.Composable:
        """How it is asked for."""
        name = sql.Identifier(self.name)
        is_text = self.arrow_type == pa.string() and self.postgres_type != "text"
        return sql.SQL("{}::text").format(name) if is_text else name


@dataclass(slots=True)
class Manifest:
    """What an exported month holds. It is written last: a folder without it is not whole."""

    month: str
    archive_id: str
    exported_at: str
    rows: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    format: int = _FORMAT


async def export_month(
    connections: ArchiveConnections, month: date, folder: Path, progress: Callable[[str], None] = lambda _: None
) -> tuple[Path, Manifest]:
    """Write a month into a new folder below `folder`, read it again to be sure, and return where it is.

    Raises ExportError if it cannot be written, or does not read as it was written.
    """
    target = await asyncio.to_thread(_new_folder, folder, month)
    part = target.with_name(f"{target.name}.part")
    try:
        manifest = await _export(connections, month, part, progress)
        await asyncio.to_thread(_finish, part, target, manifest)
    except BaseException as error:
        # Half a month is of no use to anybody.
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise _cannot_write(part, error) from error
        raise
    return target, manifest


def _cannot_write(path: Path, error: OSError) -> ExportError:
    return ExportError(
        f"{path} could not be written ({error.strerror}): nothing was dropped; make room or name another folder"
    )


async def _export(
    connections: ArchiveConnections, month: date, part: Path, progress: Callable[[str], None]
) -> Manifest:
    await asyncio.to_thread(part.mkdir, parents=True)
    manifest = Manifest(f"{month:%Y-%m}", await connections.identity(), now().isoformat())
    async with connections.transaction() as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table, condition in await _parts_of(connection, month):
            progress(table)
            columns = await columns_of(connection, table)
            manifest.rows[table] = await _write(connection, table, columns, condition, part / f"{table}.parquet")
    for table, rows in manifest.rows.items():
        manifest.sha256[table] = await asyncio.to_thread(_check, part / f"{table}.parquet", rows)
    return manifest


async def columns_of(connection: Connection, table: str) -> list[Column]:
    """The columns of a table that are written and not computed."""
    return [Column(*row) for row in await (await connection.execute(_COLUMNS, [table])).fetchall()]


async def _parts_of(connection: Connection, month: date) -> list[tuple[str, sql.Composable]]:
    """Every table of which a month has rows, and which rows those are."""
    bounds = [sql.Literal(month), sql.Literal(month)]
    of_session = sql.SQL("{} >= month_floor({}) AND {} < month_ceiling({})")

    def within(key: str) -> sql.Composable:
        return of_session.format(sql.Identifier(key), bounds[0], sql.Identifier(key), bounds[1])

    parts: list[tuple[str, sql.Composable]] = [
        ("call_sids", sql.SQL("call_sid NOT LIKE 'retired:%' AND {}").format(within("session_id")))
    ]
    for table, key, key_type in await fetch(connection, "monthly_tables"):
        of_date = sql.SQL("{} = {}").format(sql.Identifier(key), sql.Literal(month))
        parts.append((table, within(key) if key_type == "uuid" else of_date))
    parts += [(table, within("session_id")) for (table,) in await fetch(connection, "tables_without_months")]
    of_dead = sql.SQL("dead_id IN (SELECT id FROM dead_sessions WHERE {})").format(within("session_id"))
    return [*parts, ("dead_session_fields", of_dead)]


async def _write(
    connection: Connection, table: str, columns: list[Column], condition: sql.Composable, path: Path
) -> int:
    schema = pa.schema([pa.field(c.name, c.arrow_type, metadata={"postgres_type": c.postgres_type}) for c in columns])
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(column.selected for column in columns), sql.Identifier(table), condition
    )
    try:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            async with connection.cursor("session_bridge_export", row_factory=tuple_row) as cursor:
                await cursor.execute(query)
                written = 0
                while rows := await cursor.fetchmany(_ROWS_AT_ONCE):
                    await asyncio.to_thread(writer.write_batch, _batch(rows, schema))
                    written += len(rows)
    except OSError as error:
        # Now: further out it would be taken for PostgreSQL's.
        raise _cannot_write(path, error) from error
    return written


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(values, kind.type) for values, kind in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _check(path: Path, rows: int) -> str:
    """Make sure that a file is on the disk and reads as it was written; its digest."""
    found = sum(batch.num_rows for batch in pq.ParquetFile(path).iter_batches())
    if found != rows:
        raise ExportError(f"{path} holds {found} rows instead of {rows}: nothing was dropped; look at the disk")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new_folder(folder: Path, month: date) -> Path:
    """A folder that is not there yet: what was exported before is never written over."""
    name = f"{month:%Y-%m}"
    names = (name if number == 1 else f"{name}.{number}" for number in count(1))
    return next(path for path in (folder / name for name in names) if not path.exists() and not _part_exists(path))


def _part_exists(path: Path) -> bool:
    return path.with_name(f"{path.name}.part").exists()


def _finish(part: Path, target: Path, manifest: Manifest) -> None:
    with (part / _MANIFEST).open("w") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    part.rename(target)
    _sync_folder(target)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


# -- the way back ---------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """What an exported month holds; every file is compared with its digest.

    Raises ExportError if it is not whole.
    """
    try:
        manifest = Manifest(**json.loads((folder / _MANIFEST).read_text()))
        for table, digest in manifest.sha256.items():
            with (folder / f"{table}.parquet").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ExportError(f"{folder / table}.parquet is not the file that was exported: take another copy")
    except (OSError, ValueError, TypeError) as error:
        raise ExportError(
            f"{folder} holds no exported month ({error}): name the folder with its {_MANIFEST}"
        ) from error
    if manifest.format != _FORMAT:
        raise ExportError(f"{folder} is of format {manifest.format}, which a later version wrote: upgrade to read it")
    return manifest


def month_of(manifest: Manifest) -> date:
    """The month that was exported."""
    return datetime.strptime(manifest.month, "%Y-%m").replace(tzinfo=now().tzinfo).date()


def rows_of(path: Path) -> Iterable[tuple[list[Column], list[tuple[Any, ...]]]]:
    """The rows of a file, piece by piece, with the columns they are of."""
    file = pq.ParquetFile(path)
    columns = [
        Column(kind.name, (kind.metadata or {}).get(b"postgres_type", b"text").decode()) for kind in file.schema_arrow
    ]
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
        yield columns, list(zip(*[column.to_pylist() for column in batch.columns], strict=True))
