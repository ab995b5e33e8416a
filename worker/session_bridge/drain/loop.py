"""The worker's own loop: looks at the queues, drains what is due, and waits for more.

It polls, because whoever writes a plain ZADD wakes nobody, and it listens, because whoever can publish should not
have to wait for the poll. Both only decide when it looks; what there is to do is told by the queues alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Coroutine
from dataclasses import dataclass, field

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from session_bridge.contract.keys import Keys
from session_bridge.drain.drainer import Drainer
from session_bridge.drain.trouble import place_of
from session_bridge.errors import ArchiveUnavailableError, BridgeError, RedisUnavailableError
from session_bridge.live.overview import Overview
from session_bridge.live.sessions import LiveSessions, first_line
from session_bridge.live.snapshot import Claim, Claims, Queue
from session_bridge.tasks import end_tasks

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.1
_LONGEST_PAUSE = 5.0
_LIFE_SECONDS = 5.0
# Of so many looks, one begins with the checkpoints: a backlog must not keep long calls from being written down.
_CHECKPOINTS_EVERY = 4
_FIRST_PART = 16
# Each transaction has a cost of its own. Where so few calls are due at once, those that come while one batch is written
# and another understood share the next, unless neither ends soon.
_FEW = 25


@dataclass(slots=True)
class DrainLoop:
    """Claims and drains until it is stopped.

    At most `concurrency` batches are being written and one more is being understood meanwhile.
    """

    redis: Redis
    keys: Keys
    live: LiveSessions
    drainer: Drainer
    overview: Overview
    batch_size: int
    concurrency: int
    lease_seconds: float
    ready: bool = False
    """Whether both servers served it the last time it asked."""
    trouble: str = ""
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _batches: set[asyncio.Task[None]] = field(default_factory=set)
    _pause: float = 0
    _looks: int = 0
    _size: int = 0
    _few: bool = False

    async def run(self) -> None:
        """Work until `stop`. Servers that are away are waited for; only a bug ends this otherwise."""
        channel = self.redis.pubsub(ignore_subscribe_messages=True)
        beside = [asyncio.create_task(self._listen(channel)), asyncio.create_task(self._show_life())]
        try:
            while not self._stopping.is_set():
                await self._look()
        finally:
            await end_tasks(*beside)
            await _close(channel)
            with contextlib.suppress(RedisUnavailableError):
                await self.overview.leaves(self.name)

    def stop(self) -> None:
        """Claim nothing more; `run` returns soon, batches under way go on until `finish`."""
        self._stopping.set()
        self._woken.set()

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for the batches under way; those that are not done by then are handed back."""
        if self._batches:
            _, late = await asyncio.wait(self._batches, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def drain_once(self) -> int:
        """Drain what is due now, batch after batch, and return how many calls that were."""
        total = 0
        while True:
            claims = await self._claim(self.batch_size)
            if not claims.taken:
                return total
            await self.drainer.drain(claims.taken)
            total += len(claims.taken)

    # -- one look ---------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        if len(self._batches) > self.concurrency:
            await self._wait_for_a_batch()
            return
        if self._few and len(self._batches) > 1:
            await self._wait_for_a_batch(_POLL_SECONDS)
        if self._pause:
            await self._wait(self._pause)
        if self._stopping.is_set():
            return
        self._woken.clear()
        try:
            claims = await self._claim(self._next_size())
        except RedisUnavailableError as error:
            self._in_trouble(error)
            return
        except Exception as error:  # noqa: BLE001  # the worker outlives its bugs, and what others make of its queues
            self._in_trouble(self._cannot_claim(error))
            return
        if claims.taken:
            self._few = len(claims.taken) < _FEW and claims.next_due != 0
            task = asyncio.create_task(self._drain(claims.taken))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)
            if self._pause:
                # After an outage one batch shows whether it is over.
                await _first(asyncio.wait([task]), self._stopping.wait())
            if claims.next_due == 0:
                return
        elif not self.ready:
            await self._try_archive()
        await self._wait(_POLL_SECONDS if claims.next_due is None else min(_POLL_SECONDS, claims.next_due))

    async def _wait_for_a_batch(self, seconds: float | None = None) -> None:
        """Wait until one of the batches is over; no longer than `seconds`, and not once it is stopped."""
        over = asyncio.wait(self._batches, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        await _first(over, self._stopping.wait())

    def _next_size(self) -> int:
        """How many calls the next batch may have.

        With nothing under way PostgreSQL waits for the first: a small one is there soon, and each that is understood
        while others are written is twice as large as the one before.
        """
        self._size = min(self.batch_size, 2 * self._size) if self._batches else -(-self.batch_size // _FIRST_PART)
        return self._size

    async def _claim(self, most: int) -> Claims:
        self._looks += 1
        queues = [Queue.READY, Queue.CHECKPOINTS]
        if self._looks % _CHECKPOINTS_EVERY == 0:
            queues.reverse()
        falls_due = []
        for queue in queues:
            claims = await self.live.claim(queue, most, self.lease_seconds)
            if claims.taken:
                return claims
            if claims.next_due is not None:
                falls_due.append(claims.next_due)
        return Claims([], min(falls_due, default=None))

    async def _drain(self, claims: list[Claim]) -> None:
        try:
            await self.drainer.drain(claims)
        except (ArchiveUnavailableError, RedisUnavailableError) as error:
            self._in_trouble(error)
        except Exception as error:  # noqa: BLE001  # the worker outlives its bugs
            # The claims fall due again with their lease; a call that always meets the bug is drained alone after
            # three times, and is dead after the next. Only where it was is logged: a traceback may quote a call.
            log.error("drain.failed", calls=len(claims), error=type(error).__name__, where=place_of(error))  # noqa: TRY400
        else:
            self._well()

    async def _try_archive(self) -> None:
        """With nothing to drain, find out whether the archive would serve."""
        try:
            await self.drainer.try_archive()
        except BridgeError as error:
            self._in_trouble(error)
        else:
            self._well()

    def _cannot_claim(self, error: Exception) -> BridgeError:
        # Its own words are told only where they are the server's: others may quote a call.
        said = first_line(error) if isinstance(error, RedisError) else f"{type(error).__name__} at {place_of(error)}"
        keys = f"{self.keys.ready} and {self.keys.checkpoints} (each a zset), and {self.keys.in_hand} (a hash)"
        return BridgeError(
            f"nothing can be claimed ({said}): look with TYPE at {keys}, and DEL what is something else; "
            "what was asked for there, the sweep finds"
        )

    def _in_trouble(self, error: BridgeError) -> None:
        if self.trouble != str(error):
            log.warning("worker.waiting", reason=str(error))
        self.trouble = str(error)
        self.ready = False
        self._pause = min(_LONGEST_PAUSE, max(0.1, self._pause * 2)) * random.uniform(0.75, 1.25)  # noqa: S311  # spreads workers

    def _well(self) -> None:
        if self.trouble:
            log.info("worker.going_on")
        self.trouble = ""
        self.ready = True
        self._pause = 0

    async def _wait(self, seconds: float) -> None:
        await _first(asyncio.sleep(seconds), (self._stopping if self._pause else self._woken).wait())

    async def _listen(self, channel: PubSub) -> None:
        """Wake the loop at each message on the channel, for as long as Redis lets us listen."""
        while True:
            with contextlib.suppress(RedisError, OSError):
                await channel.subscribe(self.keys.wake)
                while True:
                    if await channel.get_message(timeout=5):
                        self._woken.set()
            await _close(channel)
            await asyncio.sleep(1)

    async def _show_life(self) -> None:
        while True:
            with contextlib.suppress(RedisUnavailableError):
                await self.overview.sign_of_life(self.name)
            await asyncio.sleep(_LIFE_SECONDS)


async def _close(channel: PubSub) -> None:
    with contextlib.suppress(RedisError, OSError):
        await channel.aclose()


async def _first(*waits: Coroutine[None, None, object]) -> None:
    """Wait until one of `waits` is over, and end the others; what they wait for goes on."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
