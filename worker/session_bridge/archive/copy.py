"""Rows in the forms that COPY takes, and their way to the server.

A table's rows are written as JSON, a list a line, all in one call of msgspec; that text is CSV but for the brackets, if
a backslash is its escape. Only line feeds and their like have another form there, which the whole text is changed to
at once. Where that would not be exact, or a control character has to be spelt out, or a row is but a few long texts,
every value is written by itself, in COPY's own format, which leaves quotes alone.

All tables' copies are one command, each with its own data. The driver's own `copy` takes one at a time, with two round
trips each, and comes back to the event loop after each piece of data, whether the server could take more or not; while
the loop understands other calls, the server would wait for it again and again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import msgspec
from psycopg import generators, sql
from psycopg.abc import PQGen
from psycopg.errors import OperationalError, error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from session_bridge.archive.connection import Connection
from session_bridge.archive.tables import Cell, Row, Table

# PostgreSQL takes a cell for NULL only where it stands without quotes.
_CSV = "FORMAT csv, ESCAPE '\\', NULL 'null'"
_TEXT, _NULL = "FORMAT text", "\\N"
_encoder = msgspec.json.Encoder()
_REPLACED = re.compile(rb"\\[nrtbfu]")
_RARE = re.compile(rb"\\[bfu]")
_BETWEEN_ROWS = b"]\n["
_PIECE_BYTES = 1 << 18


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


# -- to the server ----------------------------------------------------------------------------------------------------


async def copy_all(connection: Connection, copies: Sequence[Copy]) -> None:
    """Carry out `copies`, at least one, in their order and in the transaction that `connection` is in.

    The first that fails raises the driver's error, and ends the transaction.
    """
    await connection.wait(_copied(connection.pgconn, copies))


def _copied(pgconn: PGconn, copies: Sequence[Copy]) -> PQGen[None]:
    pgconn.send_query(b"; ".join([one.statement for one in copies]))
    yield from generators.send(pgconn)
    for one in copies:
        yield from _require(pgconn, ExecStatus.COPY_IN)
        text = memoryview(one.text)
        for start in range(0, len(text), _PIECE_BYTES):
            while not pgconn.put_copy_data(text[start : start + _PIECE_BYTES]):
                yield from generators.send(pgconn)
            yield from generators.send(pgconn)
        while not pgconn.put_copy_end():
            yield from generators.send(pgconn)
        yield from generators.send(pgconn)
        yield from _require(pgconn, ExecStatus.COMMAND_OK)
    yield from generators.fetch_many(pgconn)


def _require(pgconn: PGconn, status: ExecStatus) -> PQGen[None]:
    """The next answer is of this status; the error in it is raised once the server is ready for another command."""
    answer = yield from generators.fetch(pgconn)
    if answer is None:
        raise OperationalError("PostgreSQL did not say what became of a COPY")
    if answer.status != status:
        yield from generators.fetch_many(pgconn)
        raise error_from_result(answer)
