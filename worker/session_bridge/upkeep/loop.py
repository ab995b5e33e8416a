"""The worker's own time for the archive, beside the drains and beside arq.

Neither is an arq job: a refresh may take minutes, and a long job's time limit would hold back every job after a crash.
Neither uses the drains' connections: a look-up must never wait for a refresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.refresh import refresh_views
from session_bridge.errors import BridgeError
from session_bridge.service import addresses
from session_bridge.settings import Settings
from session_bridge.tasks import end_tasks
from session_bridge.upkeep.embed import Embedder, embed_archived

log = structlog.get_logger(__name__)

LONGEST_SECONDS = 600.0
"""What a refresh may take: a thousand times what it should."""

EMBED_SECONDS = 10.0
_SECOND_CHANCE = 60.0


def upkeep_connections(settings: Settings) -> ArchiveConnections:
    """Connections for what may take long."""
    return ArchiveConnections(
        addresses(settings)[1], schema=settings.db_schema, size=2, transaction_seconds=LONGEST_SECONDS
    )


async def keep_up(settings: Settings, embedder: Embedder | None) -> None:
    """Refresh the views and embed what is archived, until cancelled. An error is logged and tried again."""
    async with upkeep_connections(settings) as connections:

        async def refresh() -> None:
            # A second worker's turn comes a moment after the first one's: it finds the views fresh.
            for view, seconds in (await refresh_views(connections, settings.refresh_seconds * 0.9)).items():
                log.info("views.refreshed", view=view, seconds=round(seconds, 3))

        async def embed() -> None:
            overlap = timedelta(seconds=settings.transaction_seconds * 2 + 60)
            if embedder is not None and (embedded := await embed_archived(connections, embedder, overlap)):
                log.info("calls.embedded", model=embedder.model, calls=embedded)

        tasks = [asyncio.create_task(_again_and_again(refresh, settings.refresh_seconds, "views.waiting"))]
        if embedder is not None:
            tasks.append(asyncio.create_task(_again_and_again(embed, EMBED_SECONDS, "embedding.waiting")))
        try:
            await asyncio.gather(*tasks)
        finally:
            await end_tasks(*tasks)


async def _again_and_again(work: Callable[[], Awaitable[None]], seconds: float, waiting: str) -> None:
    while True:
        pause = seconds
        try:
            await work()
        except BridgeError as error:
            log.warning(waiting, reason=str(error))
            pause = max(seconds, _SECOND_CHANCE)
        except Exception as error:  # noqa: BLE001  # nothing here may end the drains beside it
            log.error(waiting, error=type(error).__name__)  # noqa: TRY400  # a traceback may quote a call
            pause = max(seconds, _SECOND_CHANCE)
        await asyncio.sleep(pause)
