"""Lua scripts, run by their digest in one round trip however many there are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias, cast

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

Argument: TypeAlias = str | bytes | int | float
Reply: TypeAlias = "bytes | int | list[Reply] | None"


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script of this room."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        """The script in `<name>.lua` beside this module."""
        text = resources.files(__package__ or "").joinpath(f"{name}.lua").read_text()
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script: its keys and arguments."""

    script: Script
    keys: Sequence[str | bytes]
    arguments: Sequence[Argument]


async def run(redis: Redis, calls: Sequence[Call]) -> list[Reply | RedisError]:
    """Run all `calls` in one pipeline and return their replies in order, an error in the place of its call."""
    replies = await _run(redis, calls)
    unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
    if unknown:
        for script in {calls[index].script for index in unknown}:
            await redis.script_load(script.text)
        again = await _run(redis, [calls[index] for index in unknown])
        for index, reply in zip(unknown, again, strict=True):
            replies[index] = reply
    return replies


async def run_one(redis: Redis, script: Script, keys: Sequence[str | bytes], arguments: Sequence[Argument]) -> Reply:
    """Run one script; a Redis error is raised."""
    [reply] = await run(redis, [Call(script, keys, arguments)])
    if isinstance(reply, RedisError):
        raise reply
    return reply


async def _run(redis: Redis, calls: Sequence[Call]) -> list[Reply | RedisError]:
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        # redis-py types a script's arguments as text; it sends bytes and numbers just as well.
        pipeline.evalsha(
            call.script.digest,
            len(call.keys),
            *cast("Sequence[str]", call.keys),
            *cast("Sequence[str]", call.arguments),
        )
    return cast("list[Reply | RedisError]", await pipeline.execute(raise_on_error=False))
