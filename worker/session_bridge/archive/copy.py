"""Rows in the forms that COPY takes.

A table's rows are written as JSON, a list a line, all in one call of msgspec; that text is CSV but for the brackets, if
a backslash is its escape. Only line feeds and their like have another form there, which the whole text is changed to
at once. Where that would not be exact, or a control character has to be spelt out, or a row is but a few long texts,
every value is written by itself, in COPY's own format, which leaves quotes alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
from psycopg import sql

from session_bridge.archive.tables import Cell, Row, Table

# PostgreSQL takes a cell for NULL only where it stands without quotes.
_CSV = "FORMAT csv, ESCAPE '\\', NULL 'null'"
_TEXT, _NULL = "FORMAT text", "\\N"
_encoder = msgspec.json.Encoder()
_REPLACED = re.compile(rb"\\[nrtbfu]")
_RARE = re.compile(rb"\\[bfu]")
_BETWEEN_ROWS = b"]\n["


@dataclass(frozen=True, slots=True)
class Copy:
    """A `COPY … FROM STDIN`, and its input."""

    statement: bytes
    text: bytes


def copy_of(table: Table, rows: Sequence[Row]) -> Copy:
    """What copies `rows`, at least one, into `table`. Text may hold neither U+0000 nor lone surrogates."""
    csv = None if table.long_texts else _as_csv(rows)
    return Copy(_statement(table, _TEXT), _as_text(rows)) if csv is None else Copy(_statement(table, _CSV), csv)


@cache
def _statement(table: Table, form: str) -> bytes:
    statement = sql.SQL("COPY {} ({}) FROM STDIN ({})").format(
        sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, table.columns)), sql.SQL(form)
    )
    return statement.as_bytes(None)


def _as_csv(rows: Sequence[Row]) -> bytes | None:
    lines = _encoder.encode_lines(rows)
    if b"\\" in lines and _REPLACED.search(lines):
        if b"\\\\" in lines or _RARE.search(lines):
            # A backslash before an "n" may be one of the text itself.
            return None
        lines = lines.replace(_BETWEEN_ROWS, b"\x00")
        lines = lines.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\t", b"\t")
        return lines[1:-2].replace(b"\x00", b"\n") + b"\n"
    return lines[1:-2].replace(_BETWEEN_ROWS, b"\n") + b"\n"


def _as_text(rows: Sequence[Row]) -> bytes:
    return "".join(["\t".join(map(_text_of, row)) + "\n" for row in rows]).encode()


def _text_of(cell: Cell) -> str:
    if cell is None:
        return _NULL
    text = cell if isinstance(cell, str) else str(cell)
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
