"""Live sessions as the sweep sees them: found among all keys, looked at without being read, and held."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.fields import ADOPTING_FIELDS, FAMILY_PREFIXES, TRANSCRIPT_HISTORY, FinalizedBy
from session_bridge.contract.keys import Keys
from session_bridge.live.scripts import Call, Script, run
from session_bridge.live.sessions import redis_errors

_REQUEST = Script.load("request")
_KEYS_AT_ONCE = 1000
_FIELDS = (
    "provider",
    "stream_sid",
    "started_at",
    "status",
    "ended_at",
    "last_activity_at",
    "account_sid",
    "room_name",
)
_EVENT_PREFIXES = tuple(prefix.encode() for prefix in FAMILY_PREFIXES)
_MESSAGE = b"message:"
_GLOB = re.compile(r"([*?\[\]\\])")


@dataclass(slots=True)
class Look:
    """What one look at a live session shows.

    `ttl_seconds` is None for a session without a TTL; `waiting` says that its drain has been asked for. `has_events`
    and `has_messages` are known only where `count_events` was asked.
    """

    call_sid: str
    ttl_seconds: float | None
    waiting: bool
    fields: int
    history_bytes: int
    state: dict[str, str]
    has_events: bool = False
    has_messages: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether the hash itself shows that it is a live session and not somebody else's."""
        return self.has_events or self.history_bytes > 0 or any(self.state.get(name) for name in ADOPTING_FIELDS)

    @property
    def fingerprint(self) -> str:
        """What changes when something is written that tells of life."""
        return f"{self.fields}:{self.history_bytes}:{self.state['status']}:{self.state['last_activity_at']}"


@dataclass(frozen=True, slots=True)
class Page:
    """One step of the way through the keys: call SIDs, the keys looked at, and where to go on (0 at the end)."""

    call_sids: list[str]
    keys: int
    cursor: int


class SessionScan:
    """Finds live sessions. Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._pattern = _GLOB.sub(r"\\\1", keys.prefix) + "*"

    async def page(self, cursor: int) -> Page:
        """The next live sessions among about a thousand keys of the whole database."""
        async with redis_errors():
            following, found = await self._redis.scan(cursor, self._pattern, _KEYS_AT_ONCE, "hash")
        sids = [self._keys.call_sid(key.decode("utf-8", "surrogateescape")) for key in found]
        return Page([sid for sid in sids if sid], _KEYS_AT_ONCE, int(following))

    async def all_keys(self) -> int:
        """How many keys the database holds, ours and others'."""
        async with redis_errors():
            return int(await self._redis.dbsize())

    async def look(self, call_sids: Sequence[str]) -> list[Look]:
        """Look at these sessions; those that are gone are left out."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for sid in call_sids:
                key = self._key(sid)
                pipeline.execute_command("PTTL", key)
                pipeline.execute_command("HLEN", key)
                pipeline.execute_command("HSTRLEN", key, TRANSCRIPT_HISTORY)
                pipeline.execute_command("ZSCORE", self._keys.ready, _sid(sid))
                pipeline.execute_command("HMGET", key, *_FIELDS)
            replies = await pipeline.execute(raise_on_error=False)
        looks = []
        for place, sid in enumerate(call_sids):
            ttl, fields, history, score, values = replies[place * 5 : place * 5 + 5]
            if any(isinstance(reply, RedisError) for reply in (ttl, fields, history, score, values)) or not fields:
                continue
            state = {name: _text(value) for name, value in zip(_FIELDS, values, strict=True)}
            looks.append(Look(sid, ttl / 1000 if ttl >= 0 else None, score is not None, fields, history, state))
        return looks

    async def count_events(self, looks: Sequence[Look]) -> None:
        """Find out which of these sessions hold events, and messages among them."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for look in looks:
                pipeline.execute_command("HKEYS", self._key(look.call_sid))
            for look, names in zip(looks, await pipeline.execute(raise_on_error=False), strict=True):
                if not isinstance(names, RedisError):
                    look.has_events = any(name.startswith(_EVENT_PREFIXES) for name in names)
                    look.has_messages = any(name.startswith(_MESSAGE) for name in names)

    async def hold(self, call_sids: Sequence[str]) -> None:
        """Take the TTL from these sessions."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for sid in call_sids:
                pipeline.execute_command("PERSIST", self._key(sid))
            await pipeline.execute()

    async def request(self, reasons: dict[str, str]) -> None:
        """Ask for the drain of these sessions, if they are still there; `reasons` is why, by call SID."""
        calls = [
            Call(_REQUEST, [self._key(sid), self._keys.ready], [_sid(sid), reason, FinalizedBy.SWEEP])
            for sid, reason in reasons.items()
        ]
        await self._run(calls)

    async def request_checkpoints(self, call_sids: Sequence[str], at_ms: int) -> None:
        """Ask for checkpoints of these sessions, due at `at_ms`; one that is asked for already stays as it is."""
        await self._add(self._keys.checkpoints, call_sids, at_ms)

    async def request_missing(self, call_sids: Sequence[str], at_ms: int) -> list[str]:
        """Of these call SIDs, ask for the drain of those whose session is gone: it will find that they are lost."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for sid in call_sids:
                pipeline.execute_command("EXISTS", self._key(sid))
                pipeline.execute_command("ZSCORE", self._keys.ready, _sid(sid))
            replies = await pipeline.execute()
        found = zip(call_sids, replies[::2], replies[1::2], strict=True)
        missing = [sid for sid, exists, score in found if not exists and score is None]
        await self._add(self._keys.ready, missing, at_ms)
        return missing

    async def opened(self, limit: int) -> list[str]:
        """Call SIDs that recorders opened and no book knows yet, without those that a drain, asked for, will enter."""
        async with redis_errors():
            opened = cast("list[bytes]", await self._redis.execute_command("ZRANGE", self._keys.opened, 0, limit - 1))
            if not opened:
                return []
            scores = await self._redis.execute_command("ZMSCORE", self._keys.ready, *opened)
        waiting = cast("list[float | None]", scores)
        return [sid.decode("utf-8", "surrogateescape") for sid, due in zip(opened, waiting, strict=True) if due is None]

    async def forget_opened(self, call_sids: Sequence[str]) -> None:
        """These are in the book now."""
        if call_sids:
            async with redis_errors():
                await self._redis.zrem(self._keys.opened, *map(_sid, call_sids))

    async def place(self) -> tuple[int, float]:
        """Where the round through the keys stands: the cursor, and when the round began (seconds since 1970)."""
        async with redis_errors():
            values = await self._redis.execute_command("HMGET", self._keys.sweep, "cursor", "round_began")
        cursor, began = cast("list[bytes | None]", values)
        return int(cursor or 0), float(began or 0)

    async def keep_place(self, cursor: int, round_began: float) -> None:
        """Remember where the round stands."""
        async with redis_errors():
            await self._redis.execute_command(
                "HSET", self._keys.sweep, "cursor", cursor, "round_began", repr(round_began)
            )

    async def _add(self, queue: str, call_sids: Sequence[str], at_ms: int) -> None:
        if call_sids:
            pairs: list[bytes | int] = []
            for sid in call_sids:
                pairs += (at_ms, _sid(sid))
            async with redis_errors():
                await self._redis.execute_command("ZADD", queue, "NX", *pairs)

    async def _run(self, calls: Sequence[Call]) -> None:
        if calls:
            async with redis_errors():
                for reply in await run(self._redis, calls):
                    if isinstance(reply, RedisError):
                        raise reply

    def _key(self, call_sid: str) -> bytes:
        return self._keys.session(call_sid).encode("utf-8", "surrogateescape")


def _sid(call_sid: str) -> bytes:
    return call_sid.encode("utf-8", "surrogateescape")


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""
