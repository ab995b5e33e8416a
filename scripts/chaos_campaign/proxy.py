"""A TCP proxy before a server on this machine, in which the network fails on demand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

HOST = "127.0.0.1"
_AT_ONCE = 1 << 16
# Closing sends a reset and no orderly end, as from a machine that has lost its memory.
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Aim:
    """A shot at the next request that follows another on one connection.

    `swallowed` says whether the request itself is lost, or only its answer.
    """

    after: bytes
    request: bytes
    swallowed: bool
    hit: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Line:
    """One connection: its two ends, and what is known of what went over it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    followed: set[bytes] = field(default_factory=set)
    answer_is_lost: bool = False

    def reset(self) -> None:
        for writer in (self.client, self.server):
            end = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Carries connections to `target`, a port of this machine, for as long as the block runs."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lines: set[_Line] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cuts = 0
        self._stalls = 0
        self._aims: list[Aim] = []
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def reset(self) -> None:
        """Reset every connection, but take new ones."""
        for line in list(self._lines):
            line.reset()

    async def cut(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for some time."""
        self._cuts += 1
        try:
            self.reset()
            await asyncio.sleep(seconds)
        finally:
            self._cuts -= 1

    async def stall(self, seconds: float) -> None:
        """Hold back everything for some time, and then let it go on its way."""
        self._stalls += 1
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._stalls -= 1
            if not self._stalls:
                self._flowing.set()

    async def hit(self, aim: Aim, patience: float) -> bool:
        """Wait until `aim` has hit something; False if nothing came by."""
        self._aims.append(aim)
        try:
            async with asyncio.timeout(patience):
                await aim.hit.wait()
        except TimeoutError:
            self._aims.remove(aim)
            return False
        return True

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._cuts:
                raise ConnectionRefusedError
            answers, server = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(writer, server)
        self._lines.add(line)
        ways = [
            asyncio.create_task(self._requests(line, reader)),
            asyncio.create_task(self._answers(line, answers)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._lines.discard(line)
            for end in (writer, server):
                end.close()

    async def _requests(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_AT_ONCE):
            await self._flowing.wait()
            aim = self._aimed_at(line, data)
            if aim is not None and aim.swallowed:
                line.reset()
                return
            line.answer_is_lost = aim is not None
            line.server.write(data)
            await line.server.drain()

    async def _answers(self, line: _Line, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_AT_ONCE):
            await self._flowing.wait()
            if line.answer_is_lost:
                line.reset()
                return
            line.client.write(data)
            await line.client.drain()

    def _aimed_at(self, line: _Line, data: bytes) -> Aim | None:
        for aim in self._aims:
            if aim.after in data:
                line.followed.add(aim.after)
            if aim.request in data and aim.after in line.followed:
                aim.hit.set()
                self._aims.remove(aim)
                return aim
        return None
