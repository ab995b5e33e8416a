"""Rows as the text that COPY takes.

A table's rows are written as JSON, a list a line, all in one call of msgspec; that text is CSV but for the brackets, if
a backslash is its escape. Only line feeds and their like have another form there, which the whole text is changed to
at once; where that would not be exact, or a control character has to be spelt out, every value is written by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import msgspec
from psycopg import sql

from session_bridge.archive.tables import Cell, Row, Table

# PostgreSQL takes a cell for NULL only where it stands without quotes.
_NULL = "null"
_encoder = msgspec.json.Encoder()
_REPLACED = re.compile(rb"\\[nrtbfu]")
_RARE = re.compile(rb"\\[bfu]")
_BETWEEN_ROWS = re.compile(rb"\]\n\[")


@cache
def copy_statement(table: Table) -> bytes:
    """`COPY … FROM STDIN` for the rows of `table`, in this module's format."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv, ESCAPE '\\', NULL 'null')").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, table.columns))
    )
    return statement.as_bytes(None)


def copy_text(table: Table, rows: Sequence[Row]) -> bytes:
    """The rows of `table` as COPY's input, a line each. Text may hold neither U+0000 nor lone surrogates."""
    if not rows:
        return b""
    if table.long_texts:
        return _by_cells(rows)
    lines = _encoder.encode_lines(rows)
    if b"\\" in lines and _REPLACED.search(lines):
        if b"\\\\" in lines or _RARE.search(lines):
            # A backslash before an "n" may be one of the text itself.
            return _by_cells(rows)
        lines = _BETWEEN_ROWS.sub(b"\x00", lines)
        lines = lines.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\t", b"\t")
        return lines[1:-2].replace(b"\x00", b"\n") + b"\n"
    return _BETWEEN_ROWS.sub(b"\n", lines[1:-2]) + b"\n"


def _by_cells(rows: Sequence[Row]) -> bytes:
    return "".join([f"{','.join(map(_csv_cell, row))}\n" for row in rows]).encode()


def _csv_cell(cell: Cell) -> str:
    if cell is None:
        return _NULL
    text = cell if isinstance(cell, str) else str(cell)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
