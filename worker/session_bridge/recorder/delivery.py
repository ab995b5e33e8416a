"""Entries on their way to Redis, and the server at the other end: what it refuses, and what it may have forgotten."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from session_bridge.contract.keys import Keys
from session_bridge.recorder.batch import Batch
from session_bridge.recorder.connections import Connections
from session_bridge.recorder.entries import Entry, Line
from session_bridge.recorder.recent import Recent
from session_bridge.recorder.spool import Spool

_logger = logging.getLogger("session_bridge.recorder")

# A Redis that has not answered by then counts as away.
_ATTEMPT_SECONDS = 5.0
_LOOK_SECONDS = 1.0


class Delivery:
    """Brings entries to Redis, a pipeline and a round trip for each lot of them.

    What was acknowledged a moment ago is remembered, and brought once more if another server answers than the one that
    acknowledged it: after a failover, or a crash without a full AOF, it may not have it.
    """

    def __init__(
        self, client: Redis, keys: Keys, spool: Spool, live: Iterable[Line], *, owned: bool, remembered: int
    ) -> None:
        """`owned` says whether the client is ours, `live` are the lines of calls that live.

        At most `remembered` entries are kept for a server that lacks them.
        """
        self._client = client
        self._keys = keys
        self._spool = spool
        self._live = live
        self._connections = Connections(client, owned=owned)
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.Timeout | None = None
        self._recent = Recent(remembered)
        self._server: str | None = None
        self._next_look = 0.0
        self._replication: dict[str, object] = {}
        self._history: object = None

    async def bring(self, entries: list[Entry], *, aged: bool, look: bool) -> None:
        """Bring `entries` to Redis. Raises if Redis is away; what it refuses for good is set aside.

        They are `aged` if they waited: newer values may have been written meanwhile. With `look`, somebody waits to
        know that they have arrived: a client that was lent may have found another server silently.
        """
        await self._send(entries, aged=aged, look=look)
        self._recent.remember(entries, self._loop.time())
        told, self._replication = self._replication, {}
        history = told.get("master_replid", self._history)
        if self._history and history != self._history:
            # A client that was lent found another server by itself.
            self._recent.forget_replicas()
            await self._send(self._recent.entries(), aged=True, look=look)
        self._history = history
        self._recent.replicated(told)

    async def recognise(self) -> None:
        """Redis was away. If another server answers, write once more what the last one had only just acknowledged."""
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            pipe = self._client.pipeline(transaction=False)
            pipe.info("server")
            (answer,) = await pipe.execute(raise_on_error=False)
        server = _run_id(answer)
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            await self._connections.close_there()
        if server and self._server and server != self._server:
            # Before all else: once something newer is written, what is older would only fill gaps.
            self._recent.forget_replicas()
            self._history = None
            entries = self._recent.entries()
            if entries:
                await self._send(entries, aged=True, look=False)
        self._server = self._connections.expected = server

    def give_up(self) -> None:
        """The latest attempt failed: whatever its connection still carries must not arrive."""
        self._connections.give_up()

    def hurry(self, seconds: float) -> None:
        """Give an attempt that is under way no more than `seconds`."""
        if self._deadline is not None and not self._deadline.expired():
            at = self._loop.time() + seconds
            with suppress(RuntimeError):  # it may be over in this very moment
                self._deadline.reschedule(min(at, self._deadline.when() or at))

    async def _send(self, entries: Sequence[Entry], *, aged: bool, look: bool) -> None:
        batch = Batch(entries, self._keys, aged=aged)
        pipe = self._client.pipeline(transaction=False)
        for command in batch.commands:
            pipe.execute_command(*command)
        asked = self._ask_server(pipe, look=look)
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS) as self._deadline:
                answers = await pipe.execute(raise_on_error=False)
        finally:
            self._deadline = None
        refused = batch.refused(answers[: len(batch.commands)])
        for what, answer in zip(asked, answers[len(batch.commands) :], strict=True):
            if what == "server":
                self._server = self._connections.expected = _run_id(answer)
            elif isinstance(answer, dict):
                self._replication = answer
        batch.settle()
        if refused:
            await self._set_aside([entry for entry in entries if entry.line.sid in refused], refused)

    def _ask_server(self, pipe: Pipeline, *, look: bool) -> list[str]:
        """Ask with a batch what is not known of the server, and now and then how far its replicas are."""
        asked = [] if self._server else ["server"]
        if look or self._loop.time() >= self._next_look:
            self._next_look = self._loop.time() + _LOOK_SECONDS
            asked.append("replication")
        for section in asked:
            pipe.info(section)
        return asked

    async def _set_aside(self, entries: list[Entry], refused: dict[str, Exception]) -> None:
        reasons = ", ".join(sorted({str(error) for error in refused.values()}))
        # What comes from a file has lines of its own.
        for line in {entry.line for entry in entries} | {line for line in self._live if line.sid in refused}:
            line.lost += 1
        try:
            kept = str(await asyncio.to_thread(self._spool.set_aside, entries))
        except OSError as error:
            kept = f"nowhere, for the disk refuses them ({error})"
        _logger.error("Redis refuses what was recorded of %d calls (%s); it is kept in %s", len(refused), reasons, kept)


def _run_id(answer: object) -> str | None:
    """Which run of which server answered INFO; None if it may not say."""
    run_id = answer.get("run_id") if isinstance(answer, dict) else None
    return run_id if isinstance(run_id, str) else None
