"""A connection that notices whether the sessions read over it are written before they are let go.

Redis keeps watch itself (https://redis.io/docs/latest/commands/watch/): what is executed on the connection afterwards
is executed only if nothing that is watched was touched since it was read. So a release need not look at every byte
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from session_bridge.live.scripts import Argument, Call, Reply

Hash = dict[bytes, bytes]


class Watch:
    """Watches what was read over it, and vouches for all of that once.

    `client` holds a connection for itself alone until the watch is closed: whatever else is said on it may end a watch.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._vouches = False
        self._undo = ""

    async def read(self, keys: Sequence[bytes], watched: Sequence[bytes]) -> list[Hash | RedisError]:
        """Read hashes, and watch some from before they are read on; an error stands in the place of its hash.

        Where no watch is kept, by a proxy or for want of rights, everything is read all the same. The transaction is
        begun here: a server that refuses it would run at once what was to be run in it.
        """
        await self._client.initialize()
        connection = cast("AbstractConnection", self._client.connection)
        reads: list[Sequence[Argument]] = [("HGETALL", key) for key in keys]
        if not watched:
            replies = await _ask(connection, reads)
        else:
            watch, *replies, begin = await _ask(connection, [("WATCH", *watched), *reads, ("MULTI",)])
            watches, begun = not isinstance(watch, RedisError), not isinstance(begin, RedisError)
            self._undo = "DISCARD" if begun else "UNWATCH" if watches else ""
            self._vouches = watches and begun
        return [reply if isinstance(reply, RedisError) else _hash(reply) for reply in replies]

    async def run(self, calls: Sequence[Call]) -> list[Reply] | None:
        """Run all `calls` at one moment; None, and nothing is run, if anything that was read was touched since then.

        It is None as well if the connection was lost meanwhile, the scripts have to be loaded, or `run` was called
        before. Raises the driver's error if it is not known what was run.
        """
        if not self._vouches:
            return None
        self._vouches, self._undo = False, ""
        connection = cast("AbstractConnection", self._client.connection)
        if await _is_lost(connection):
            await connection.disconnect(nowait=True)
            return None
        commands = [("EVALSHA", call.script.digest, len(call.keys), *call.keys, *call.arguments) for call in calls]
        replies = (await _ask(connection, [*commands, ("EXEC",)]))[-1]
        if not isinstance(replies, list) or any(isinstance(reply, NoScriptError) for reply in replies):
            return None
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return cast("list[Reply]", replies)

    async def close(self) -> None:
        """Give the connection back, no longer watching."""
        connection = cast("AbstractConnection | None", self._client.connection)
        try:
            if self._undo and connection is not None and connection.is_connected:
                await _ask(connection, [(self._undo,)])
        except (RedisError, OSError):
            pass  # it is closed, and that ends a watch too
        finally:
            await self._client.aclose()


async def _ask(connection: AbstractConnection, commands: Sequence[Sequence[Argument]]) -> list[object]:
    """The replies to `commands`, which are sent together, and never again: another connection watches nothing."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[object] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


async def _is_lost(connection: AbstractConnection) -> bool:
    """Whether the server has hung up, by which all watches end; a driver would quietly connect again."""
    try:
        # Nothing was asked: whatever comes is the end.
        return not connection.is_connected or await connection.can_read_destructive()
    except (RedisConnectionError, OSError):
        return True


def _hash(reply: object) -> Hash:
    if isinstance(reply, dict):
        return cast("Hash", reply)
    pairs: Iterator[bytes] = iter(cast("list[bytes]", reply))
    return dict(zip(pairs, pairs, strict=True))
