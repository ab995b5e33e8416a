"""The journal: what happened to each call on its way into the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from pydantic_core import to_json

from session_bridge.archive.connection import ArchiveConnections, fetch
from session_bridge.archive.tables import Row, Table

JOURNAL = Table(
    "call_journal", ("session_id", "at", "event", "detail"), ("session_id", "at", "event"), frozenset(("detail",))
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened to one call: a word for it, and what is to be said of it (no data of the call)."""

    session_id: str
    at: datetime
    event: str
    detail: dict[str, JsonValue]

    @property
    def row(self) -> Row:
        """The entry as a row of its table."""
        return (self.session_id, self.at, self.event, to_json(self.detail).decode())


async def enter(connections: ArchiveConnections, entries: Sequence[Entry]) -> None:
    """Enter what happened outside a drain's own transaction."""
    async with connections.transaction() as connection:
        for entry in entries:
            await fetch(
                connection,
                "enter_journal",
                session_id=entry.session_id,
                at=entry.at,
                event=entry.event,
                detail=to_json(entry.detail).decode(),
            )
