"""Rows as the text that COPY takes.

While a table's rows are put together, cells and rows are set apart by control characters, so that what has to be
escaped is escaped once for the whole table, at the speed of `str.replace`, and not value by value. Text that holds
those characters itself is found by counting them, and takes the slow way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from psycopg import sql

from session_bridge.archive.tables import Cell, Row, Table

_DELIMITER, _END = "\x1f", "\x1e"
# PostgreSQL takes a cell for NULL only if it is this text as a whole; drawn anew in each process, none can be made so.
_NULL = f"\x1d{os.urandom(6).hex()}"


def copy_statement(table: Table) -> sql.Composed:
    """`COPY … FROM STDIN` for the rows of `table`, in this module's format."""
    return sql.SQL("COPY {} ({}) FROM STDIN (DELIMITER {}, NULL {})").format(
        sql.Identifier(table.name),
        sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        sql.Literal(_DELIMITER),
        sql.Literal(_NULL),
    )


def copy_text(rows: Sequence[Row]) -> str:
    """The rows as COPY's input, each ended by a line feed. Text may hold neither U+0000 nor lone surrogates."""
    if not rows:
        return ""
    lines = [
        _DELIMITER.join([_NULL if cell is None else cell if cell.__class__ is str else str(cell) for cell in row])
        for row in rows
    ]
    text = f"{_END.join(lines)}{_END}"
    if text.count(_DELIMITER) == len(rows) * (len(rows[0]) - 1) and text.count(_END) == len(rows):
        return _escape(text).replace(_END, "\n")
    return "".join([f"{_DELIMITER.join(map(_escaped_cell, row))}\n" for row in rows])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _escaped_cell(cell: Cell) -> str:
    if cell is None:
        return _NULL
    return _escape(cell if isinstance(cell, str) else str(cell)).replace(_DELIMITER, f"\\{_DELIMITER}")
