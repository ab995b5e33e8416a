"""What Redis has not acknowledged yet, oldest first: files of our own, then memory up to a bound."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from session_bridge.recorder.entries import Entry
from session_bridge.recorder.spool import Spool

_logger = logging.getLogger("session_bridge.recorder")

# One pipeline, and one spool file, holds about this much at most.
_BATCH_BYTES = 4 << 20
_BUFFER_BYTES = 64 << 20


class Backlog:
    """The queue between the recorders and the flusher. `append` may be called from any thread, the rest in the loop."""

    def __init__(self, spool: Spool, bound: int, nudge: Callable[[], None]) -> None:
        """`bound` is the number of entries held in memory; `nudge` is called when `nudge_at` are there, or too many."""
        self.entries: list[Entry] = []
        self.files: deque[tuple[Path, int]] = deque()
        self.nudge_at = 0
        self._spool = spool
        self._bound = bound
        self._nudge = nudge
        self._bytes = 0
        self._settled = 0
        self._waiters: list[tuple[int, asyncio.Future[bool]]] = []
        self._dropped = 0
        self._disk_refuses = False

    def append(self, entry: Entry) -> None:
        """Add an entry; it never blocks and never raises."""
        entries = self.entries
        entries.append(entry)
        self._bytes += len(entry[3])
        if len(entries) >= self.nudge_at or self._bytes > _BUFFER_BYTES:
            self.nudge_at = sys.maxsize
            self._nudge()

    def __len__(self) -> int:
        return len(self.entries) + sum(count for _, count in self.files)

    @property
    def overfull(self) -> bool:
        """Whether memory holds more than it should."""
        return len(self.entries) > self._bound or self._bytes > _BUFFER_BYTES

    def oldest(self) -> list[Entry]:
        """As many of the oldest entries in memory as fit into one pipeline or file."""
        if self._bytes > _BATCH_BYTES:
            size = 0
            for index, entry in enumerate(self.entries, 1):
                size += len(entry.value)
                if size > _BATCH_BYTES:
                    return self.entries[:index]
        return self.entries[:]

    # -- settled: acknowledged by Redis, or given up aloud ------------------------------------------------------

    def settle(self, batch: list[Entry]) -> None:
        """The oldest entries in memory need no more care."""
        self._remove(batch)
        self._count(len(batch))

    def settle_file(self) -> None:
        """The oldest file needs no more care."""
        _, count = self.files.popleft()
        self._count(count)

    def settled(self) -> asyncio.Future[bool]:
        """Becomes True when all that waits now is settled, False if that will not happen here."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._settled + len(self), future))
        return future

    def give_up(self) -> None:
        """Tell those who wait that nobody works here any more."""
        for _, future in self._waiters:
            if not future.done():
                future.set_result(False)
        self._waiters = []

    def say_losses(self) -> None:
        """Redis is back: say what an outage has cost, if anything."""
        if self._dropped:
            _logger.error("%d recorded entries are lost: there was room neither in memory nor on disk", self._dropped)
        self._dropped, self._disk_refuses = 0, False

    def _count(self, count: int) -> None:
        self._settled += count
        if self._waiters:
            for target, future in self._waiters:
                if target <= self._settled and not future.done():
                    future.set_result(True)
            self._waiters = [waiter for waiter in self._waiters if not waiter[1].done()]

    def _remove(self, batch: list[Entry]) -> None:
        del self.entries[: len(batch)]
        self._bytes = self._bytes - sum(len(entry[3]) for entry in batch) if self.entries else 0

    # -- to disk ------------------------------------------------------------------------------------------------

    async def make_room(self) -> None:
        """Move the older half of what is too much to disk; where the disk refuses, drop what is over the bound."""
        while self.overfull:
            if not await self._move(max(len(self.entries) - self._bound // 2, 1)):
                dropped = self.entries[: max(len(self.entries) - self._bound, 1)]
                for entry in dropped:
                    entry.line.lost += 1
                self._dropped += len(dropped)
                self.settle(dropped)

    async def move_all(self) -> None:
        """Move everything to disk, as far as the disk takes it."""
        while self.entries and await self._move(len(self.entries)):
            pass

    def move_now(self) -> None:
        """Write memory to disk at once, blocking: for a loop or a process that ends."""
        entries = self.entries[:]
        if not entries:
            return
        self._remove(entries)
        try:
            self._spool.write(entries)
        except OSError as error:
            _logger.error("%d recorded entries are lost: Redis is away, and the spool refuses: %s", len(entries), error)  # noqa: TRY400

    async def _move(self, count: int) -> bool:
        """Move up to `count` of the oldest entries into one file; False if the disk refuses."""
        batch = self.oldest()[:count]
        try:
            path = await asyncio.to_thread(self._spool.write, batch)
        except OSError as error:
            if not self._disk_refuses:
                self._disk_refuses = True
                _logger.error("the spool cannot be written, so only the newest is kept while Redis is away: %s", error)  # noqa: TRY400
            return False
        self._remove(batch)
        self.files.append((path, len(batch)))
        return True
