"""What calls were embedded into, and how far each model has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import uuid4

from session_bridge.archive.connection import ArchiveConnections, fetch, run
from session_bridge.errors import SearchError


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model has come: every call archived up to this moment, and of this moment up to this id, is done.

    `archived_at` is None where none is.
    """

    archived_at: datetime | None
    session_id: str


@dataclass(frozen=True, slots=True)
class Leased:
    """A model's work, taken for a while. `now` is the database's clock."""

    model: str
    lease: str
    progress: Progress
    now: datetime


@dataclass(frozen=True, slots=True)
class ArchivedText:
    """A call that was archived; `text` is None if there is nothing of it to embed, or nothing new."""

    session_id: str
    archived_at: datetime
    text: str | None
    tenant_id: str | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a call's transcript, embedded; `first_character` counts from 1."""

    session_id: str
    number: int
    first_character: int
    characters: int
    digest: str
    vector: Sequence[float]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that calls were embedded with; `archived_through` is None before the first was."""

    model: str
    dimension: int | None
    archived_through: datetime | None
    first_used_at: datetime
    last_used_at: datetime | None


async def lease_model(
    connections: ArchiveConnections, model: str, seconds: float, lease: str | None = None
) -> Leased | None:
    """Take a model's work, or keep it by its `lease`; None while another worker has it."""
    lease = lease or str(uuid4())
    async with connections.transaction() as connection:
        await run(connection, "enter_model", model=model)
        rows = await fetch(connection, "lease_model", model=model, lease=lease, seconds=seconds)
    if not rows:
        return None
    [(archived_through, session_through, now)] = rows
    return Leased(model, lease, Progress(archived_through, session_through), now)


async def give_back(connections: ArchiveConnections, leased: Leased) -> None:
    """Let another worker take the work."""
    async with connections.transaction() as connection:
        await run(connection, "give_model_back", model=leased.model, lease=leased.lease)


async def archived_since(
    connections: ArchiveConnections, model: str, progress: Progress, limit: int
) -> list[ArchivedText]:
    """The next `limit` calls in the order in which they were archived."""
    async with connections.transaction() as connection:
        rows = await fetch(
            connection,
            "archived_since",
            model=model,
            archived_through=progress.archived_at,
            session_through=progress.session_id,
            limit=limit,
        )
    return [ArchivedText(*row) for row in rows]


async def prepare(connections: ArchiveConnections, model: str, dimension: int) -> None:
    """Make what a search by meaning needs of a model.

    Raises:
        SearchError: Something is missing that only a person can bring; the message says what.
    """
    async with connections.transaction() as connection:
        [[missing]] = await fetch(connection, "prepare_semantic_search", model=model, dimension=dimension)
    if missing:
        raise SearchError(f"search by meaning: {missing}")


async def keep(
    connections: ArchiveConnections, leased: Leased, parts: Sequence[Part], progress: Progress | None, *, done: bool
) -> bool:
    """Keep embedded parts in place of what these calls had; False if another worker has the work by now."""
    async with connections.transaction() as connection:
        now = progress or leased.progress
        dimension = len(parts[0].vector) if parts else None
        advanced = await fetch(
            connection,
            "advance_model",
            model=leased.model,
            lease=leased.lease,
            archived_through=now.archived_at,
            session_through=now.session_id,
            dimension=dimension,
            done=done,
        )
        if advanced and parts:
            session_ids = sorted({part.session_id for part in parts})
            await run(connection, "forget_embeddings", model=leased.model, session_ids=session_ids)
            await run(
                connection,
                "keep_embeddings",
                model=leased.model,
                dimension=dimension,
                session_id=[part.session_id for part in parts],
                part=[part.number for part in parts],
                first_character=[part.first_character for part in parts],
                characters=[part.characters for part in parts],
                text_digest=[part.digest for part in parts],
                embedding=["{" + ",".join(map(repr, map(float, part.vector))) + "}" for part in parts],
            )
    return bool(advanced)


async def known_models(connections: ArchiveConnections) -> list[Model]:
    """The models that calls were embedded with, the one used last first."""
    async with connections.transaction() as connection:
        return [Model(*row) for row in await fetch(connection, "known_models")]


async def forget_model(connections: ArchiveConnections, model: str) -> int | None:
    """Delete what calls were embedded into with this model; how many parts, or None if nobody knows it."""
    async with connections.transaction() as connection:
        [[parts]] = await fetch(connection, "forget_model", model=model)
        return cast("int | None", parts)
