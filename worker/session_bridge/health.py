"""What a worker says of itself to those who watch it, over HTTP: is it alive, is it ready, and how much it has done.

`/live` is 200 for as long as the worker's event loop turns, `/ready` is 200 while both servers serve it and else 503
with the reason, and `/metrics` is for Prometheus, in version 0.0.4 of its text format
(https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Generic, TypeVar

import structlog
from redis.exceptions import RedisError

from session_bridge.archive.book import states
from session_bridge.errors import BridgeError, SettingsError
from session_bridge.live.overview import Waiting
from session_bridge.live.sessions import redis_errors
from session_bridge.providers.answer import Word
from session_bridge.service import Bridge

log = structlog.get_logger(__name__)

_LONGEST_REQUEST = 8192  # bytes
_REQUEST_SECONDS, _CONNECTION_SECONDS = 5.0, 15.0
_WORDS = 3  # of a request line: method, path, version
_MOST_CONNECTIONS = 32
_READING_SECONDS = 2.0
# The book's rows are counted: not at each scrape.
_PROBE_AGE, _QUEUES_AGE, _BOOK_AGE, _FAILURE_AGE = 1.0, 1.0, 30.0, 1.0
_BOOK_STATES = ("live", "checkpointed", "archived", "dead", "lost", "retired")

_COUNTERS = {
    "archived": "calls archived for the first time",
    "checkpointed": "checkpoints of calls that live on",
    "merged": "drains merged into a call that was archived before",
    "rejects": "fields that could not be understood and are kept raw",
    "dead": "sessions that could not be archived and are kept raw",
    "lost": "sessions that were gone from Redis before they were drained",
    "retired": "sessions let go that came late for a call that retention or an erasure took",
    "again": "drains made again because another drain of the call came in between",
}
_LATE = f"a server has not answered within {_READING_SECONDS:g} s"
_TEXT, _METRICS = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"

Value = TypeVar("Value")


@dataclass(slots=True)
class _Reading(Generic[Value]):
    """A value that costs a question to a server: asked for once at a time, and kept for some seconds.

    That there is no answer is believed for one second only: an outage's end is to be seen at once.
    """

    ask: Callable[[], Awaitable[Value]]
    keep_seconds: float
    value: Value | None = None
    trouble: str = "not asked yet"
    _asked_at: float = float("-inf")
    _task: asyncio.Task[None] | None = None

    async def latest(self) -> Value | None:
        """The value, or None if the server cannot tell now; then `trouble` says why."""
        keep_seconds = _FAILURE_AGE if self.value is None else self.keep_seconds
        if self._task is None and time.monotonic() - self._asked_at >= keep_seconds:
            self._task = asyncio.create_task(self._ask())
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=_READING_SECONDS)
            if late:
                self._failed(_LATE)
        return self.value

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_READING_SECONDS):
                self.value, self.trouble = await self.ask(), ""
        except TimeoutError:
            self._failed(_LATE)
        except (BridgeError, RedisError) as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001  # whoever asks is told, and the worker goes on
            self._failed(f"a bug of the bridge, please report it: {type(error).__name__}")
        finally:
            self._asked_at = time.monotonic()
            self._task = None

    def _failed(self, trouble: str) -> None:
        self.value, self.trouble = None, _one_line(trouble)


@dataclass(slots=True)
class _Health:
    """What is known of a worker's health."""

    bridge: Bridge
    probe: _Reading[bool] = field(init=False)
    queues: _Reading[Waiting] = field(init=False)
    book: _Reading[dict[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.probe = _Reading(self._probe, _PROBE_AGE)
        self.queues = _Reading(self.bridge.overview.waiting, _QUEUES_AGE)
        self.book = _Reading(lambda: states(self.bridge.connections), _BOOK_AGE)

    async def close(self) -> None:
        for reading in (self.probe, self.queues, self.book):
            await reading.close()

    async def not_ready(self) -> str:
        """Why the worker cannot work, or an empty text if it can.

        The loop knows what it met when it last had something to do; while it has nothing to do, the servers are asked.
        """
        loop = self.bridge.loop
        if not loop.ready:
            return _one_line(loop.trouble) or "the servers have not answered yet"
        return "" if await self.probe.latest() else self.probe.trouble

    async def _probe(self) -> bool:
        async with redis_errors():
            await self.bridge.redis.execute_command("PING")
        await self.bridge.drainer.try_archive()
        return True

    async def metrics(self) -> str:
        """All that is known now, in Prometheus' text format; what a server does not tell is left out."""
        why, waiting, book = await asyncio.gather(self.not_ready(), self.queues.latest(), self.book.latest())
        done = asdict(self.bridge.drainer.counts)
        lines = []
        for name, meaning in _COUNTERS.items():
            lines += _metric(f"{name}_total", "counter", f"{meaning}, by this worker", {"": done[name]})
        answers = {f'{{answer="{word}"}}': self.bridge.inquiry.answers[word] for word in Word}
        lines += _metric("questions_total", "counter", "questions to providers whether a call lives", answers)
        lines += _metric("ready", "gauge", "1 while both servers serve this worker", {"": int(not why)})
        failovers = self.bridge.failovers
        lines += _metric("redis_failovers_total", "counter", "failovers of Redis seen", {"": failovers.failovers})
        if loss := failovers.latest:
            lost = "bytes of Redis' replication that the last failover surely lost"
            seconds = "how long before the last failover acknowledged writes may be missing"
            lines += _metric("redis_possible_loss_seconds", "gauge", seconds, {"": loss.seconds})
            lines += _metric("redis_lost_bytes", "gauge", lost, {"": loss.bytes})
        if waiting is not None:
            states_of_requests = {"due": waiting.due, "later": waiting.later, "leased": waiting.leased}
            lines += _metric("waiting", "gauge", "requests for a drain", _by_state(states_of_requests))
            oldest, checkpoints = waiting.oldest_seconds, waiting.checkpoints
            lines += _metric("oldest_waiting_seconds", "gauge", "how long a request has been due", {"": oldest})
            lines += _metric("checkpoints_waiting", "gauge", "checkpoints asked for and not made", {"": checkpoints})
            lines += _metric("workers", "gauge", "workers with a recent sign of life", {"": waiting.workers})
        if book is not None:
            every = {state: book.get(state, 0) for state in _BOOK_STATES}
            lines += _metric("calls", "gauge", "call SIDs in the archive's book", _by_state(every))
        return "".join(f"{line}\n" for line in lines)


@asynccontextmanager
async def serve_health(bridge: Bridge, host: str, port: int | None) -> AsyncIterator[None]:
    """Answer on this port for as long as the block runs; 0 is any free port, and with None nobody listens.

    Raises SettingsError if the port cannot be had.
    """
    if port is None:
        yield
        return
    health = _Health(bridge)
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answering) >= _MOST_CONNECTIONS:
            writer.close()
            return
        task = asyncio.create_task(_serve(health, reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    try:
        server = await asyncio.start_server(accept, host, port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise SettingsError(
            f"SESSION_BRIDGE_HEALTH_PORT: nobody can listen on {host}, port {port} ({error.strerror}): choose another "
            "port or SESSION_BRIDGE_HEALTH_HOST"
        ) from error
    log.info("health.listening", host=host, port=server.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        await health.close()


async def _serve(health: _Health, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one answer."""
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECTION_SECONDS):
                if (answer := await _answer(health, reader)) is not None:
                    writer.write(answer)
                    await writer.drain()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _answer(health: _Health, reader: asyncio.StreamReader) -> bytes | None:
    """The answer to the request that comes in, or None if there is nobody to answer."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    except TimeoutError:
        return _response(HTTPStatus.REQUEST_TIMEOUT)
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != _WORDS or not words[2].startswith(b"HTTP/1."):
        return _response(HTTPStatus.BAD_REQUEST)
    path = words[1].partition(b"?")[0]
    if path not in (b"/live", b"/ready", b"/metrics"):
        return _response(HTTPStatus.NOT_FOUND)
    if words[0] != b"GET":
        return _response(HTTPStatus.METHOD_NOT_ALLOWED, headers="Allow: GET\r\n")
    if path == b"/live":
        return _response(HTTPStatus.OK, "alive\n")
    if path == b"/metrics":
        return _response(HTTPStatus.OK, await health.metrics(), content_type=_METRICS)
    if why := await health.not_ready():
        return _response(HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n")
    return _response(HTTPStatus.OK, "ready\n")


def _response(status: HTTPStatus, text: str = "", *, headers: str = "", content_type: str = _TEXT) -> bytes:
    body = (text or f"{status.phrase}\n").encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _metric(name: str, kind: str, meaning: str, values: Mapping[str, float]) -> list[str]:
    """The lines of one metric; `values` are by its labels."""
    full = f"session_bridge_{name}"
    return [
        f"# HELP {full} {meaning}",
        f"# TYPE {full} {kind}",
        *[f"{full}{labels} {value}" for labels, value in values.items()],
    ]


def _by_state(values: Mapping[str, int]) -> dict[str, float]:
    return {f'{{state="{state}"}}': value for state, value in values.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())
