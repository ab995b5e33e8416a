"""The background task that carries what was recorded to Redis, one for all calls of an event loop and a Redis."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.keys import Keys
from session_bridge.recorder.backlog import Backlog
from session_bridge.recorder.batch import is_away
from session_bridge.recorder.delivery import Delivery
from session_bridge.recorder.entries import Line, touch
from session_bridge.recorder.moments import MOMENTS
from session_bridge.recorder.spool import Spool

_logger = logging.getLogger("session_bridge.recorder")

# How long an attempt may go on once the buffer is full.
_PATIENCE_SECONDS = 2.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_SCAN_SECONDS = 30.0
_LAST_TURN_SECONDS = 4.0

working: set[Flusher] = set()
"""Those whose task runs, so that the end of the process finds what they hold."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a flusher works: how long and how much it gathers, how often a heart beats, how much it holds."""

    flush_interval: float = 0.05
    flush_events: int = 100
    heartbeat_seconds: float = 15.0
    buffer_events: int = 10_000


class Flusher:
    """Works off a backlog: to Redis, or, where that is away and memory is full, to disk and back.

    `append` adds an entry from any thread; all else belongs to the loop.
    """

    def __init__(
        self, client: Redis, *, owned: bool, keys: Keys, pace: Pace, spool: Spool, beside: Redis | None = None
    ) -> None:
        """`owned` says whether the client is ours to close; `beside`, closed with it, is for other commands."""
        self.keys = keys
        self.beside = beside or client
        self.live: WeakSet[Line] = WeakSet()
        self.leaving = 0
        self.away = False
        self.closed = False
        self._client = client
        self._owned = owned
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._spool = spool
        self._backlog = Backlog(spool, pace.buffer_events, self._nudge)
        self.append = self._backlog.append
        self._adopted: deque[Spool] = deque()
        self._delivery = Delivery(client, keys, spool, self.live, owned=owned, remembered=pace.buffer_events)
        self._movers: list[asyncio.Future[None]] = []
        self._aged = False
        self._urgent = False
        self._event = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._next_beat = self._loop.time() + pace.heartbeat_seconds
        self._next_scan = 0.0

    # -- what recorders call ------------------------------------------------------------------------------------

    async def flush(self, timeout: float | None) -> bool:  # noqa: ASYNC109  # a caller with a timeout wants an answer
        """Wait until all that is in the log now is settled; False if that takes longer than `timeout` seconds."""
        if not self._backlog:
            return True
        if self.closed:
            return False
        settled = self._backlog.settled()
        self._urgent = True
        self._nudge()
        done, _ = await asyncio.wait({settled}, timeout=timeout)
        if done:
            return settled.result()
        settled.cancel()
        return False

    async def move_to_disk(self, timeout: float) -> None:  # noqa: ASYNC109  # as above
        """Bring all that is not acknowledged to the spool, in at most `timeout` seconds."""
        if self.closed:
            self.spool_now()
            return
        moved: asyncio.Future[None] = self._loop.create_future()
        self._movers.append(moved)
        self._nudge()
        self._delivery.hurry(0)
        await asyncio.wait({moved}, timeout=timeout)

    def spool_now(self) -> None:
        """Write what memory holds to disk at once, blocking: for a loop or a process that ends."""
        self._backlog.move_now()

    def abandon(self) -> None:
        """Forget everything: it belongs to the process that this one was forked from."""
        self._backlog.entries.clear()
        self.closed = True
        for spool in (self._spool, *self._adopted):
            spool.forget()

    # -- the task -----------------------------------------------------------------------------------------------

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop it works in."""
        return self._loop

    @property
    def idle(self) -> bool:
        """Whether nothing is held that only this flusher knows of."""
        return not self._backlog and (self._task is None or self._task.done())

    def start(self) -> None:
        """Begin to work, unless it does already."""
        if not self.closed and (self._task is None or self._task.done()):
            working.add(self)
            self._task = self._loop.create_task(self._run(), name="session-bridge recorder")

    def _nudge(self) -> None:
        if not self.closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_nudge)

    def _on_nudge(self) -> None:
        self._event.set()
        self.start()
        if self._backlog.overfull:
            self._delivery.hurry(_PATIENCE_SECONDS)

    async def _run(self) -> None:
        try:
            while await self._turn():
                pass
        except asyncio.CancelledError:
            await self._last_turn()
            raise
        finally:
            self._answer_all()
            await self._release()
            if self._backlog and not self.closed:  # came while the connection was being closed
                self._loop.call_soon(self.start)
            else:
                working.discard(self)

    async def _turn(self) -> bool:
        """One round of work; False if there is none left and no call lives."""
        now = self._loop.time()
        if now >= self._next_scan:
            self._next_scan = now + _SCAN_SECONDS
            await self._adopt()
        if now >= self._next_beat:
            self._next_beat = now + self._pace.heartbeat_seconds
            self._beat()
        if self._movers:
            await self._move()
        backlog = self._backlog
        if not backlog and not self._adopted:
            backlog.nudge_at = 1
            # Whoever asked while the last entries were on their way has been answered with them.
            self._urgent = False
            if not self.live and not backlog:
                return False
            await self._sleep(min(self._next_beat, self._next_scan) - now, 1)
        elif not backlog.files and not self.away:
            await self._sleep(self._pace.flush_interval, self._pace.flush_events)
        if not backlog and not self._adopted:
            return True
        if not await self._send():
            await backlog.make_room()
            await self._sleep(self._pause * MOMENTS.jitter(), self._pace.buffer_events + 1)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            await backlog.make_room()
        return True

    async def _sleep(self, seconds: float, nudge_at: int) -> None:
        """Sleep, or less: until the log holds `nudge_at` entries or somebody waits."""
        backlog = self._backlog
        self._event.clear()
        backlog.nudge_at = nudge_at
        if not self._urgent and not self._movers and len(backlog.entries) < nudge_at and not backlog.overfull:
            try:
                async with asyncio.timeout(seconds):
                    await self._event.wait()
            except TimeoutError:
                pass
        else:
            await asyncio.sleep(0)
        backlog.nudge_at = self._pace.buffer_events + 1

    async def _last_turn(self) -> None:
        """The loop is being shut down: give the calls that end with it the time to say so."""
        try:
            async with asyncio.timeout(_LAST_TURN_SECONDS):
                await asyncio.sleep(self._pace.flush_interval)
                while self._backlog.entries or self.leaving:
                    if not await self._send():
                        break
                    await asyncio.sleep(min(self._pace.flush_interval, 0.01))
        except TimeoutError:
            pass
        finally:
            self.closed = True
            self.spool_now()

    async def _release(self) -> None:
        try:
            self._spool.close()
            for spool in self._adopted:
                spool.close()
            self._adopted.clear()
        except OSError as error:
            _logger.warning("a spool could not be tidied: %s", error)
        if self._owned:
            try:
                await self._client.aclose()
                await self.beside.aclose()
            except (RedisError, OSError) as error:
                _logger.debug("closing the connection to Redis: %r", error)

    # -- to Redis -----------------------------------------------------------------------------------------------

    async def _send(self) -> bool:
        """Bring the oldest of what waits to Redis; False if Redis is away."""
        backlog = self._backlog
        # Who waits for a flush is answered when another server has been noticed: a lent client finds one silently.
        look, self._urgent = self._urgent, False
        try:
            if self.away:
                await self._delivery.recognise()
            if backlog.files:
                await self._replay(self._spool, backlog.files[0][0], look=look)
                backlog.settle_file()
            elif backlog.entries:
                batch = backlog.oldest()
                await self._delivery.bring(batch, aged=self._aged, look=look)
                backlog.settle(batch)
            if self._adopted:
                await self._replay_adopted(look=look)
        except Exception as error:  # noqa: BLE001  # whatever it is, what was recorded is kept and tried again
            self._fail(error)
            return False
        if self.away:
            self.away = False
            _logger.info("Redis is back; what waited is being written")
            backlog.say_losses()
        if not backlog:
            self._aged = False
        self._pause = _FIRST_PAUSE
        return True

    def _answer_all(self) -> None:
        self._backlog.give_up()
        for moved in self._movers:
            if not moved.done():
                moved.set_result(None)
        self._movers = []

    def _fail(self, error: Exception) -> None:
        self._aged = True
        self._delivery.give_up()
        if not self.away:
            self.away = True
            if not is_away(error):
                _logger.error("what was recorded could not be written; trying again", exc_info=error)
            else:
                _logger.warning("Redis is away (%r); recording goes on in memory and, past its bound, on disk", error)

    def _beat(self) -> None:
        """Let each call say that it lives, which renews its TTL too; not again while the last time still waits."""
        if self.away and self._backlog:
            return
        at = MOMENTS.text()
        for line in list(self.live):
            if line.announced:  # a call that has not begun has nothing to say
                self.append(touch(line, at))

    # -- to disk and back ---------------------------------------------------------------------------------------

    async def _move(self) -> None:
        movers, self._movers = self._movers, []
        await self._backlog.move_all()
        for moved in movers:
            if not moved.done():
                moved.set_result(None)

    async def _replay(self, spool: Spool, path: Path, *, look: bool) -> None:
        """Bring one file to Redis, and forget it once Redis has acknowledged it."""
        try:
            entries = await asyncio.to_thread(spool.read, path)
        except OSError as error:
            _logger.error("the spool file %s cannot be read and is left out: %s", path, error)  # noqa: TRY400
            entries = []
        if entries:
            await self._delivery.bring(entries, aged=True, look=look)
        try:
            await asyncio.to_thread(spool.remove, path)
        except OSError as error:
            _logger.warning("the spool file %s is written but cannot be removed: %s", path, error)

    async def _adopt(self) -> None:
        try:
            self._adopted.extend(await asyncio.to_thread(self._spool.adopt))
        except OSError as error:
            _logger.warning("the spool cannot be searched for what dead processes left: %s", error)

    async def _replay_adopted(self, *, look: bool) -> None:
        """Bring one file of a dead process to Redis."""
        spool = self._adopted[0]
        if spool.waiting:
            await self._replay(spool, spool.waiting[0], look=look)
            spool.waiting.popleft()
        else:
            self._adopted.popleft()
            await asyncio.to_thread(spool.close)
