"""Archived calls, read back as they were written, so that late data can join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from psycopg import sql

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.sql import QUERIES
from session_bridge.archive.tables import (
    COST_BREAKDOWNS,
    EVENT_TABLES,
    RAG_CHUNKS,
    SESSIONS,
    UNKNOWN_EVENTS,
    Row,
    Table,
)


@dataclass(slots=True)
class ArchivedCall:
    """One archived call: its row of `call_sessions` by column name, JSON as text, and rows of other tables.

    `rows` are just as a drain writes them, but for the spaces in their JSON; `contents` has the texts of its chunks by
    their hash. `history` and `analysis` are the JSON texts of `transcript_history` and of the analysis document;
    `rejects` has the digest of every reject kept, its field, and whether that is archived in a cleaned form.
    """

    session: dict[str, Any]
    rows: dict[Table, list[Row]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    history: str | None = None
    analysis: str | None = None
    rejects: dict[bytes, tuple[bytes, bool]] = field(default_factory=dict)

    def of(self, table: Table) -> list[Row]:
        """The rows of one table, in no order."""
        return self.rows.get(table, [])


async def read_back(connections: ArchiveConnections, session_ids: Sequence[str]) -> dict[str, ArchivedCall]:
    """The archived rows of these sessions, by session id; a session without a row is left out."""
    ids = {"session_ids": list(session_ids)}
    calls: dict[str, ArchivedCall] = {}
    # All statements go out together: one round trip instead of one a table.
    async with connections.transaction() as connection, connection.pipeline():
        sessions = await connection.execute(_select(SESSIONS), ids)
        plain = {table: await connection.execute(_select(table), ids) for table in _PLAIN}
        chunks = await connection.execute(_select(_CHUNK_TEXTS), ids)
        histories, analyses, rejects = [await connection.execute(QUERIES[name], ids) for name in _OTHERS]

        for row in await sessions.fetchall():
            session = dict(zip(SESSIONS.columns, row, strict=True))
            calls[session["id"]] = ArchivedCall(session)
        for table, cursor in plain.items():
            for row in await cursor.fetchall():
                calls[row[0]].rows.setdefault(table, []).append(row)
        for row in await chunks.fetchall():
            call, content = calls[row[0]], row[-1]
            call.rows.setdefault(RAG_CHUNKS, []).append(row[:-1])
            if content is not None:
                call.contents[row[_CONTENT_HASH]] = content
        for session_id, history in await histories.fetchall():
            calls[session_id].history = history
        for session_id, analysis in await analyses.fetchall():
            calls[session_id].analysis = analysis
        for session_id, digest, name, cleaned in await rejects.fetchall():
            if session_id in calls:
                calls[session_id].rejects[bytes(digest)] = bytes(name), cleaned
    return calls


_PLAIN = (*EVENT_TABLES.values(), UNKNOWN_EVENTS, COST_BREAKDOWNS)
READ_BACK = frozenset((*_PLAIN, RAG_CHUNKS))
"""The tables whose rows an archived call has."""
_OTHERS = ("archived_transcripts", "archived_analyses", "archived_rejects")
# The view that joins retrieved chunks to their text.
_CHUNK_TEXTS = replace(RAG_CHUNKS, name="call_rag_chunk_texts", columns=(*RAG_CHUNKS.columns, "content"))
_CONTENT_HASH = RAG_CHUNKS.columns.index("content_hash")

_TEXT = sql.SQL("{}::text")
_HEX = sql.SQL(r"E'\\x' || encode({}, 'hex')")
# The form that `contract.times.canonical_time` has; every transaction is in UTC.
_TIME = sql.SQL("""replace(to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'), '.000000+', '+')""")


@cache
def _select(table: Table) -> bytes:
    session_id = table.key[0]
    forms = {session_id: _TEXT, "content_hash": _HEX}
    forms |= dict.fromkeys(table.json_columns, _TEXT) | dict.fromkeys(table.time_columns, _TIME)
    columns = [forms.get(column, sql.SQL("{}")).format(sql.Identifier(column)) for column in table.columns]
    statement = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%(session_ids)s)").format(
        sql.SQL(", ").join(columns), sql.Identifier(table.name), sql.Identifier(session_id)
    )
    return statement.as_bytes(None)
