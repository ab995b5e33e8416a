"""The materialized views: refreshed one session at a time, and how fresh they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from session_bridge.archive.connection import ArchiveConnections, fetch


@dataclass(frozen=True, slots=True)
class Freshness:
    """When a materialized view was refreshed last, and how many seconds that took."""

    view: str
    refreshed_at: datetime
    seconds: float


async def refresh_views(connections: ArchiveConnections, older_than: float = 0) -> dict[str, float]:
    """Refresh those that are older than so many seconds while others read them; how long each took.

    Nothing is done while another session does it.
    """
    async with connections.transaction() as connection:
        return dict(await fetch(connection, "refresh_views", older_than=older_than))


async def freshness(connections: ArchiveConnections) -> list[Freshness]:
    """How fresh each materialized view is."""
    async with connections.transaction() as connection:
        return [Freshness(*row) for row in await fetch(connection, "freshness")]
