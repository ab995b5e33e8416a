"""Rows as JSON, and the statements that insert them or bring them up to date."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec
from psycopg import sql

from session_bridge.archive.tables import Row, Table

_encoder = msgspec.json.Encoder()


@cache
def insert_statement(*tables: Table) -> bytes:
    """Insert rows into each of `tables`, two or more; a JSON text of them is a parameter, `$1` for the first table.

    One statement is sooner carried out than one a table.
    """
    *others, last = [_insert(table, place) for place, table in enumerate(tables, start=1)]
    parts = [sql.SQL("{} AS ({})").format(sql.Identifier(f"part_{place}"), one) for place, one in enumerate(others)]
    return sql.SQL("WITH {} {}").format(sql.SQL(", ").join(parts), last).as_bytes(None)


@cache
def merge_statement(table: Table) -> bytes:
    """The same, but rows that are there already are brought up to date; one that is the same is not touched."""
    others = [column for column in table.columns if column not in table.key]
    conflict = sql.SQL(
        " ON CONFLICT ({key}) DO UPDATE SET {assignments} WHERE ({ours}) IS DISTINCT FROM ({theirs})"
    ).format(
        key=sql.SQL(", ").join(map(sql.Identifier, table.key)),
        assignments=sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(column)) for column in others
        ),
        ours=sql.SQL(", ").join(sql.Identifier(table.name, column) for column in others),
        theirs=sql.SQL(", ").join(sql.Identifier("excluded", column) for column in others),
    )
    return (_insert(table, 1) + conflict).as_bytes(None)


def _insert(table: Table, place: int) -> sql.Composed:
    names = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table}, ${place}::json)"
    ).format(table=sql.Identifier(table.name), names=names, place=place)


def json_text(table: Table, rows: Sequence[Row]) -> str:
    """The rows of `table` as those statements take them. Text may hold neither U+0000 nor lone surrogates."""
    document = _document_of(table)
    documents = [document(*row) for row in rows]
    for column in table.json_columns:
        for one in documents:
            # JSON goes in as it is: read once more it would only be written once more.
            if isinstance(text := getattr(one, column), str):
                setattr(one, column, msgspec.Raw(text.encode()))
    return _encoder.encode(documents).decode()


@cache
def _document_of(table: Table) -> type[msgspec.Struct]:
    """A row of `table` as an object in JSON, by name of column. A NULL is left out: many columns of most rows are."""
    fields = [(column, object, None) for column in table.columns]
    return msgspec.defstruct("Document", fields, omit_defaults=True, gc=False)
