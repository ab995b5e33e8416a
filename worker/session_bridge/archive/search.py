"""Searching the archive: by words, and by meaning where pgvector is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import psycopg

from session_bridge.archive.connection import ArchiveConnections, fetch
from session_bridge.errors import SearchError


class Place(StrEnum):
    """What is searched."""

    CALLS = "calls"
    MESSAGES = "messages"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls are looked at, and how many answers are wanted; `since` is the earliest start of a call.

    `mark` and `unmark` stand around what was found in a snippet.
    """

    tenant: str | None = None
    agent: str | None = None
    since: datetime | None = None
    limit: int = 20
    mark: str = "<mark>"
    unmark: str = "</mark>"


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer, of a call or of something in it.

    `rank` is the higher the better: PostgreSQL's for words, 1 minus the cosine's distance for meaning. `number` is a
    message's sequence or a chunk's rank; `source` is who said it, or the file a chunk is from.
    """

    call_sid: str
    session_id: str
    tenant_id: str | None
    agent_id: str | None
    agent_name: str | None
    called_at: datetime
    language: str | None
    rank: float
    snippet: str
    number: int | None = None
    source: str | None = None
    said_at: datetime | None = None


async def search(
    connections: ArchiveConnections,
    query: str,
    filters: Filters,
    place: Place = Place.CALLS,
    speaker: str | None = None,
) -> list[Hit]:
    """What has these words, the best first; `speaker` is a name or a role, and is for messages.

    `query` is words that must all occur, "a phrase", `or`, and `-without`.

    Raises:
        SearchError: The query has no word that must occur.
    """
    given = {"query": query.replace("\0", ""), "mark": filters.mark, "unmark": filters.unmark}
    parameters = given | _common(filters) | ({"speaker": speaker} if place is Place.MESSAGES else {})
    async with connections.transaction() as connection:
        try:
            rows = await fetch(connection, f"search_{place}", **parameters)
        except psycopg.errors.InvalidParameterValue as error:
            raise SearchError(f"{error.diag.message_primary}: add one to the query") from error
    return [Hit(*row) for row in rows]


async def search_by_meaning(
    connections: ArchiveConnections, asked: Sequence[float], model: str, filters: Filters
) -> list[Hit]:
    """The calls nearest to a vector of this model, the nearest first.

    Raises:
        SearchError: pgvector is not in this database.
    """
    async with connections.transaction() as connection:
        try:
            rows = await fetch(connection, "search_by_meaning", asked=list(asked), model=model, **_common(filters))
        except psycopg.errors.FeatureNotSupported as error:
            raise SearchError(
                "a search by meaning needs pgvector in this database: let its owner run CREATE EXTENSION vector; "
                "without it, search by words works"
            ) from error
    return [Hit(*row) for row in rows]


def _common(filters: Filters) -> dict[str, object]:
    return {"tenant": filters.tenant, "agent": filters.agent, "since": filters.since, "limit": filters.limit}
