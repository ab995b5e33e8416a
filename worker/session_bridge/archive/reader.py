"""Archived calls, read back as they were written, so that late data can join them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from session_bridge.archive.connection import ArchiveConnections, Connection, fetch
from session_bridge.archive.tables import EVENT_TABLES, RAG_CHUNKS, SESSIONS, UNKNOWN_EVENTS, Table
from session_bridge.contract.fields import Family


@dataclass(slots=True)
class ArchivedCall:
    """The rows of one archived call, each a mapping by column name, JSON as text.

    `history` and `analysis` are the JSON texts of `transcript_history` and of the analysis document; `rejects` has
    the digest of every reject kept, and whether its field is archived in a cleaned form.
    """

    session: dict[str, Any]
    events: dict[Family, list[dict[str, Any]]] = field(default_factory=dict)
    chunks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unknown_events: list[dict[str, Any]] = field(default_factory=list)
    history: str | None = None
    analysis: str | None = None
    rejects: dict[bytes, bool] = field(default_factory=dict)


async def read_back(connections: ArchiveConnections, session_ids: Sequence[str]) -> dict[str, ArchivedCall]:
    """The archived rows of these sessions, by session id; a session without a row is left out."""
    ids = list(session_ids)
    calls: dict[str, ArchivedCall] = {}
    async with connections.transaction() as connection:
        for row in await _rows(connection, SESSIONS, ids, "id"):
            calls[str(row["id"])] = ArchivedCall(row)
        for family, table in EVENT_TABLES.items():
            for row in await _rows(connection, table, ids):
                calls[str(row["session_id"])].events.setdefault(family, []).append(row)
        for row in await _rows(connection, UNKNOWN_EVENTS, ids):
            calls[str(row["session_id"])].unknown_events.append(row)
        for row in await _rows(connection, _CHUNK_TEXTS, ids, order=RAG_CHUNKS.key):
            calls[str(row["session_id"])].chunks.setdefault(row["event_id"], []).append(row)
        for session_id, history in await fetch(connection, "archived_transcripts", session_ids=ids):
            calls[str(session_id)].history = history
        for session_id, analysis in await fetch(connection, "archived_analyses", session_ids=ids):
            calls[str(session_id)].analysis = analysis
        for session_id, digest, cleaned in await fetch(connection, "archived_rejects", session_ids=ids):
            if str(session_id) in calls:
                calls[str(session_id)].rejects[bytes(digest)] = cleaned
    return calls


# The view that joins retrieved chunks to their text.
_CHUNK_TEXTS = Table("call_rag_chunk_texts", (*RAG_CHUNKS.columns, "content"), RAG_CHUNKS.key, RAG_CHUNKS.json_columns)


async def _rows(
    connection: Connection, table: Table, ids: list[str], key: str = "session_id", order: Sequence[str] = ()
) -> list[dict[str, Any]]:
    columns = [
        sql.SQL("{}::text").format(sql.Identifier(column)) if column in table.json_columns else sql.Identifier(column)
        for column in table.columns
    ]
    statement = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%s)").format(
        sql.SQL(", ").join(columns), sql.Identifier(table.name), sql.Identifier(key)
    )
    if order:
        statement += sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(map(sql.Identifier, order)))
    rows = await (await connection.execute(statement, [ids])).fetchall()
    return [dict(zip(table.columns, row, strict=True)) for row in rows]
