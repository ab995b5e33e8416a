"""Embedding archived calls with a function of the user's own, so that they can be searched by meaning.

The calls are gone through in the order in which they were archived, late data included, and a model remembers how far
it has come. A model that is new begins with the first call, so naming another one embeds everything anew, while the old
one goes on answering until it is forgotten.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, TypeAlias

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.embeddings import (
    ArchivedText,
    Leased,
    Part,
    Progress,
    archived_since,
    give_back,
    keep,
    lease_model,
    prepare,
)
from session_bridge.errors import SearchError, SettingsError
from session_bridge.functions import load_function
from session_bridge.settings import PREFIX, Settings

EmbeddingFunction: TypeAlias = Callable[[list[str]], Any]
"""Given texts, as many vectors: lists of floats, all of one length, at once or awaited."""

LEASE_SECONDS = 300.0
PART_CHARACTERS = 2_000
MOST_PARTS = 100
_CALLS_AT_ONCE = 50
_TEXTS_AT_ONCE = 64
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True)
class Embedder:
    """A model: its name, and the function that embeds with it."""

    model: str
    function: EmbeddingFunction

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text.

        Raises:
            SearchError: The function failed, or answered with something else than vectors of one length.
        """
        try:
            if inspect.iscoroutinefunction(self.function):
                answer = await self.function(texts)
            else:
                answer = await asyncio.to_thread(self.function, texts)
            vectors = [[float(number) for number in vector] for vector in answer]
        except Exception as error:
            # Its words may quote the call.
            raise SearchError(
                f"the function that {PREFIX}EMBEDDING names failed ({type(error).__name__}): try it with a few texts"
            ) from error
        if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) > 1 or not all(vectors):
            raise SearchError(
                f"the function that {PREFIX}EMBEDDING names must return one vector for each text, all of one length"
            )
        if not all(isfinite(number) for vector in vectors for number in vector):
            raise SearchError(f"the function that {PREFIX}EMBEDDING names returned a number that is not finite")
        return vectors


def embedder_of(settings: Settings) -> Embedder | None:
    """The model that these settings name, or None. Raises SettingsError if its function cannot be had."""
    if not settings.embedding:
        return None
    function = load_function(f"{PREFIX}EMBEDDING", settings.embedding)
    return Embedder(settings.embedding_model or settings.embedding, function)


def required_embedder(settings: Settings) -> Embedder:
    """The model that these settings name. Raises SettingsError if they name none."""
    embedder = embedder_of(settings)
    if embedder is None:
        raise SettingsError(
            f"search by meaning needs {PREFIX}EMBEDDING=module:function, a function that turns texts into vectors; "
            "a worker that has it embeds the calls"
        )
    return embedder


def parts_of(text: str) -> Iterator[tuple[int, str]]:
    """A transcript in parts, each with its first character's place from 1; they end with a line where they can."""
    start = 0
    for _ in range(MOST_PARTS):
        if start >= len(text):
            return
        end = min(start + PART_CHARACTERS, len(text))
        if end < len(text) and (line := text.rfind("\n", start, end) + 1) > start:
            end = line
        yield start + 1, text[start:end]
        start = end


async def embed_archived(
    connections: ArchiveConnections,
    embedder: Embedder,
    overlap: timedelta,
    progress: Callable[[int], None] | None = None,
) -> int | None:
    """Embed every call that was archived since the last time, and return how many; None while another worker does it.

    A transaction may commit after one that began later: what was archived within `overlap` is looked at once more.
    """
    leased = await lease_model(connections, embedder.model, LEASE_SECONDS)
    if leased is None:
        return None
    embedded = 0
    here = leased.progress
    try:
        while page := await archived_since(connections, embedder.model, here, _CALLS_AT_ONCE):
            last = len(page) < _CALLS_AT_ONCE
            parts = await _embed(connections, embedder, page)
            here = Progress(page[-1].archived_at, page[-1].session_id)
            settled = _settled(leased, here, leased.now - overlap)
            if not await keep(connections, leased, parts, settled, done=last):
                return embedded
            embedded += len({part.session_id for part in parts})
            if progress:
                progress(embedded)
            if last or await lease_model(connections, embedder.model, LEASE_SECONDS, leased.lease) is None:
                break
    finally:
        await give_back(connections, leased)
    return embedded


def _settled(leased: Leased, here: Progress, until: datetime) -> Progress:
    """How far the model has come for good."""
    if here.archived_at is not None and here.archived_at < until:
        return here
    began = leased.progress.archived_at
    return Progress(until, _NOBODY) if began is None or began < until else leased.progress


async def _embed(connections: ArchiveConnections, embedder: Embedder, page: Sequence[ArchivedText]) -> list[Part]:
    pieces = [
        (call.session_id, call.digest, number, place, text)
        for call in page
        if call.text is not None and call.digest is not None
        for number, (place, text) in enumerate(parts_of(call.text), 1)
    ]
    parts: list[Part] = []
    for start in range(0, len(pieces), _TEXTS_AT_ONCE):
        some = pieces[start : start + _TEXTS_AT_ONCE]
        vectors = await embedder.embed([text for *_, text in some])
        if not parts:
            await prepare(connections, embedder.model, len(vectors[0]))
        for (session_id, digest, number, place, text), vector in zip(some, vectors, strict=True):
            parts.append(Part(session_id, number, place, len(text), digest, vector))
    if len({len(part.vector) for part in parts}) > 1:
        raise SearchError(
            f"the function that {PREFIX}EMBEDDING names returned vectors of different lengths for one model"
        )
    return parts
