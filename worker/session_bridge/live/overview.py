"""What stands where in Redis, for people: the queues, the sessions in them, the workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.keys import Keys
from session_bridge.live.sessions import ALONE_COUNTS, redis_errors

_AT_ONCE = 1000
# A worker says every few seconds that it runs; after so long without a word it is taken for gone.
_WORKER_GONE_MS = 15_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """The ready set at one moment: requests that are due, due later, and in a worker's hands."""

    due: int
    later: int
    leased: int
    oldest_seconds: float
    checkpoints: int
    workers: int


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What is in Redis of one call.

    `ttl_seconds` is None where there is no TTL (on hold, or no session at all). `due_ms` is the request's score, None
    if nobody asks: a whole number is when it is due, a fraction is a worker's lease. Anybody may have written a score
    that is no time at all.
    """

    fields: int
    ttl_seconds: float | None
    due_ms: float | None
    attempts: int
    claims_without_outcome: int


class Overview:
    """Looks without touching. Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def waiting(self) -> Waiting:
        """How much waits, and who is there to drain it."""
        async with redis_errors():
            now = await self._now_ms()
            members = cast(
                "list[tuple[bytes, float]]", await self._redis.zrange(self._keys.ready, 0, -1, withscores=True)
            )
            checkpoints = await self._redis.zcard(self._keys.checkpoints)
            workers = await self._redis.zcount(self._keys.workers, now - _WORKER_GONE_MS, "+inf")
        leased = [score for _, score in members if score > now and not score.is_integer()]
        due = [score for _, score in members if score <= now]
        oldest = (now - max(0.0, min(due))) / 1000 if due else 0.0
        return Waiting(len(due), len(members) - len(due) - len(leased), len(leased), oldest, checkpoints, workers)

    async def asked(self) -> set[str]:
        """The call SIDs whose drain is asked for."""
        async with redis_errors():
            members = cast("list[bytes]", await self._redis.zrange(self._keys.ready, 0, -1))
        return {member.decode("utf-8", "surrogateescape") for member in members}

    async def on_hold(self, call_sids: Iterable[str]) -> int:
        """How many of these sessions have no TTL."""
        return sum(ttl == -1 for ttl in await self._each("PTTL", list(call_sids)))

    async def gone(self, call_sids: Sequence[str]) -> list[str]:
        """Those of these call SIDs that have no session."""
        exist = await self._each("EXISTS", call_sids)
        return [sid for sid, there in zip(call_sids, exist, strict=True) if there == 0]

    async def _each(self, command: str, call_sids: Sequence[str]) -> list[int]:
        replies: list[int] = []
        async with redis_errors():
            for start in range(0, len(call_sids), _AT_ONCE):
                pipeline = self._redis.pipeline(transaction=False)
                for sid in call_sids[start : start + _AT_ONCE]:
                    pipeline.execute_command(command, self._key(sid))
                replies += await pipeline.execute()
        return replies

    async def whereabouts(self, call_sid: str) -> Whereabouts:
        """What is in Redis of one call."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.execute_command("HLEN", self._key(call_sid))
            pipeline.execute_command("PTTL", self._key(call_sid))
            pipeline.zscore(self._keys.ready, call_sid)
            pipeline.hget(self._keys.attempts, call_sid)
            pipeline.hget(self._keys.in_hand, call_sid)
            fields, ttl, due, attempts, claims = await pipeline.execute(raise_on_error=False)
        return Whereabouts(
            0 if isinstance(fields, RedisError) else fields,
            ttl / 1000 if ttl >= 0 else None,
            due,
            int(attempts or 0),
            int(claims or 0) % ALONE_COUNTS,
        )

    async def sign_of_life(self, worker: str) -> None:
        """Say that this worker runs; those that have not said so for long are forgotten."""
        async with redis_errors():
            now = await self._now_ms()
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zadd(self._keys.workers, {worker: now})
            pipeline.zremrangebyscore(self._keys.workers, "-inf", now - 10 * _WORKER_GONE_MS)
            await pipeline.execute()

    async def leaves(self, worker: str) -> None:
        """Say that this worker has stopped."""
        async with redis_errors():
            await self._redis.zrem(self._keys.workers, worker)

    async def _now_ms(self) -> int:
        seconds, micros = cast("tuple[int, int]", await self._redis.time())
        return seconds * 1000 + micros // 1000

    def _key(self, call_sid: str) -> bytes:
        return self._keys.session(call_sid).encode("utf-8", "surrogateescape")
