"""Watches the archive for calls to arrive, closely enough to time it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from session_bridge.archive.book import Record, look_up
from session_bridge.archive.connection import ArchiveConnections

_PAUSE_SECONDS = 0.003


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call that is in the archive: its record in the book, and when it was seen there, by the event loop's clock."""

    record: Record
    seen: float


@dataclass(slots=True)
class ArchiveWatch:
    """Tells when calls are archived; gives up on all of them when none has been for `patience` seconds."""

    connections: ArchiveConnections
    patience: float
    gave_up: bool = False
    _waiting: dict[str, tuple[int, asyncio.Future[Arrival | None]]] = field(default_factory=dict)
    _started: asyncio.Event = field(default_factory=asyncio.Event)
    _patient_until: float = 0

    async def arrival(self, call_sid: str, due: float, *, after_drains: int = 0) -> Arrival | None:
        """Wait until more than `after_drains` drains of a call, due at the moment `due`, have archived it.

        None if that was given up.
        """
        if self.gave_up:
            return None
        if not self._waiting:
            self._patient_until = due + self.patience
        future: asyncio.Future[Arrival | None] = asyncio.get_running_loop().create_future()
        self._waiting[call_sid] = (after_drains, future)
        self._started.set()
        return await future

    async def run(self) -> None:
        """Look at the archive while anybody waits, until cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                await self._started.wait()
                records = await look_up(self.connections, list(self._waiting))
                seen = clock()
                for call_sid, (record, *_) in records.items():
                    self._compare(call_sid, Arrival(record, seen))
                if not self._waiting:
                    self._started.clear()
                elif seen > self._patient_until:
                    self._give_up()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            self._give_up()

    def _compare(self, call_sid: str, arrival: Arrival) -> None:
        after_drains, future = self._waiting[call_sid]
        record = arrival.record
        if record.state == "archived" and record.drains > after_drains:
            del self._waiting[call_sid]
            self._patient_until = max(self._patient_until, arrival.seen + self.patience)
            if not future.done():
                future.set_result(arrival)

    def _give_up(self) -> None:
        self.gave_up = True
        for _, future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._waiting.clear()
        self._started.clear()


@asynccontextmanager
async def watching(connections: ArchiveConnections, patience: float) -> AsyncIterator[ArchiveWatch]:
    """A watch that runs for as long as the block; an error of the archive ends it, and comes out at the block's end."""
    watch = ArchiveWatch(connections, patience)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
