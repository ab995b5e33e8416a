"""The recorder's connections as the server knows them: one that was given up is closed there, before it is too late.

What was sent over a connection that then stalled may reach the server long after the client has closed its end and
written everything anew over another one. An event would go back to what it was.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

_RUN_ID = re.compile(r"run_id:(\w+)")


class _Name(NamedTuple):
    """What a server calls a connection: the number means something only for this run of this server."""

    run_id: str
    number: int


class Connections:
    """Those of a client of our own; a client that a caller lends is left as it is, and nothing is known of its own."""

    def __init__(self, client: Redis, *, owned: bool) -> None:
        self._client = client
        self._latest: _Name | None = None
        self.expected: str | None = None
        """The run of the server that connections are to lead to; one to another is refused, once."""
        self._given_up: set[_Name] = set()
        if owned:
            client.connection_pool.connection_kwargs["redis_connect_func"] = self._introduce

    def give_up(self) -> None:
        """The latest connection failed: whatever it still carries must not arrive."""
        if self._latest is not None:
            self._given_up.add(self._latest)

    async def close_there(self) -> None:
        """Have the server close what was given up. One that does not let us is left to its own patience."""
        latest = self._latest
        stale = [name for name in self._given_up if latest and name != latest and name.run_id == latest.run_id]
        if stale:
            pipe = self._client.pipeline(transaction=False)
            for name in stale:
                pipe.execute_command("CLIENT", "KILL", "ID", name.number)
            await pipe.execute(raise_on_error=False)
        self._given_up.clear()

    async def _introduce(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self._latest = None
        with suppress(ResponseError):
            await connection.send_command("CLIENT", "ID")
            number = int(await connection.read_response())
            await connection.send_command("INFO", "server")
            if run_id := _RUN_ID.search(str(await connection.read_response())):
                self._latest = _Name(run_id[1], number)
        if self._latest and self.expected and self._latest.run_id != self.expected:
            # The driver replaces a connection that was closed while nobody used it, and would say nothing of it.
            self.expected = None
            raise RedisConnectionError("another server answers, or the same one after a restart")
