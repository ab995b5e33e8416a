"""What of one call, or of one person, is in Redis, and how it goes from there."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.fields import Family
from session_bridge.contract.keys import Keys
from session_bridge.live.scan import SessionScan
from session_bridge.live.sessions import redis_errors

_PARTICIPANT = f"{Family.PARTICIPANT}:".encode()
_AT_ONCE = 500
_KINDS = ("sessions", "notes", "requests", "checkpoints", "opened", "in_hand", "attempts")


class Forgetting:
    """Finds and removes. Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, queue: Redis, keys: Keys) -> None:
        self._redis = redis
        self._queue = queue
        self._keys = keys
        self._scan = SessionScan(redis, keys)

    async def calls_of(self, pattern: str, fields: Sequence[str] = ()) -> set[str]:
        """The call SIDs whose name, whose participants, or one of whose `fields` (all, if none is named) fit."""
        fits = re.compile(pattern)
        found = {sid for sid in await self._named() if fits.search(sid)}
        cursor = 0
        while True:
            page = await self._scan.page(cursor)
            found |= {sid for sid in page.call_sids if fits.search(sid)}
            for sid, texts in (await self._texts(page.call_sids, fields)).items():
                if any(fits.search(text) for text in texts):
                    found.add(sid)
            cursor = page.cursor
            if cursor == 0:
                return found

    async def _named(self) -> set[str]:
        """Every call SID that one of our own keys names."""
        keys = self._keys
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for queue in (keys.ready, keys.checkpoints, keys.opened):
                pipeline.execute_command("ZRANGE", queue, 0, -1)
            for counters in (keys.in_hand, keys.attempts):
                pipeline.execute_command("HKEYS", counters)
            replies = cast("list[list[bytes]]", await pipeline.execute())
        return {_text(name) for names in replies for name in names}

    async def _texts(self, call_sids: Sequence[str], fields: Sequence[str]) -> dict[str, list[str]]:
        """The values of these fields, and of the participants, of these sessions."""
        async with redis_errors():
            first = self._redis.pipeline(transaction=False)
            for sid in call_sids:
                first.execute_command(*(("HMGET", self._key(sid), *fields) if fields else ("HVALS", self._key(sid))))
                first.execute_command("HKEYS", self._key(sid))
            replies: list[Any] = await first.execute(raise_on_error=False)
            texts: dict[str, list[str]] = {}
            second = self._redis.pipeline(transaction=False)
            with_parties = []
            for place, sid in enumerate(call_sids):
                values, names = replies[2 * place : 2 * place + 2]
                if isinstance(values, RedisError) or isinstance(names, RedisError):
                    continue
                texts[sid] = [_text(value) for value in values if value]
                if parties := [name for name in names if name.startswith(_PARTICIPANT)]:
                    second.execute_command("HMGET", self._key(sid), *parties)
                    with_parties.append(sid)
            for sid, values in zip(with_parties, await second.execute(raise_on_error=False), strict=True):
                if not isinstance(values, RedisError):
                    texts[sid] += [_text(value) for value in values if value]
        return texts

    async def knows(self, call_sid: str) -> bool:
        """Whether anything in Redis names this call."""
        async with redis_errors():
            there = await self._redis.execute_command("EXISTS", self._key(call_sid))
        return bool(there) or call_sid in await self._named()

    async def in_hand(self, call_sids: Sequence[str]) -> bool:
        """Whether a worker is draining one of these calls at this moment."""
        async with redis_errors():
            seconds, micros = cast("tuple[int, int]", await self._redis.time())
            pipeline = self._redis.pipeline(transaction=False)
            for sid in call_sids:
                pipeline.zscore(self._keys.ready, _raw(sid))
                pipeline.zscore(self._keys.checkpoints, _raw(sid))
            scores = cast("list[float | None]", await pipeline.execute())
        moment = seconds * 1000 + micros / 1000
        return any(score is not None and score > moment and not score.is_integer() for score in scores)

    async def forget(self, call_sids: Sequence[str]) -> Counter[str]:
        """Remove all that names these calls, each in one step; returns how many keys and entries went, by kind."""
        gone: Counter[str] = Counter()
        keys = self._keys
        for start in range(0, len(call_sids), _AT_ONCE):
            some = call_sids[start : start + _AT_ONCE]
            async with redis_errors():
                pipeline = self._redis.pipeline(transaction=True)
                for sid in some:
                    pipeline.execute_command("UNLINK", self._key(sid))
                    pipeline.execute_command("UNLINK", _raw(keys.spend(sid)), _raw(keys.asked(sid)))
                    for queue in (keys.ready, keys.checkpoints, keys.opened):
                        pipeline.execute_command("ZREM", queue, _raw(sid))
                    for counters in (keys.in_hand, keys.attempts):
                        pipeline.execute_command("HDEL", counters, _raw(sid))
                replies = cast("list[int]", await pipeline.execute())
            for place, kind in enumerate(_KINDS):
                gone[kind] += sum(replies[place :: len(_KINDS)])
        gone["jobs"] += await self._forget_jobs(set(call_sids))
        return gone

    async def forget_user(self, user_id: str, tenant_ids: Collection[str]) -> Counter[str]:
        """Remove what recorders were told of a user's budget."""
        async with redis_errors():
            budgets = [self._keys.budget(tenant_id, user_id) for tenant_id in tenant_ids]
            return Counter(budgets=int(await self._redis.execute_command("UNLINK", *budgets)))

    async def _forget_jobs(self, call_sids: Collection[str]) -> int:
        """Remove the arq jobs that name one of these calls."""
        gone = 0
        async with redis_errors():
            ids = cast("list[bytes]", await self._queue.execute_command("ZRANGE", self._keys.queue, 0, -1))
            for start in range(0, len(ids), _AT_ONCE):
                some = ids[start : start + _AT_ONCE]
                jobs = [self._keys.queued_job(_text(job_id)) for job_id in some]
                for job_id, job, raw in zip(some, jobs, await self._queue.mget(jobs), strict=True):
                    if raw is not None and _names(raw, call_sids):
                        await self._queue.execute_command("ZREM", self._keys.queue, job_id)
                        gone += int(await self._queue.execute_command("DEL", job))
        return gone

    def _key(self, call_sid: str) -> bytes:
        return _raw(self._keys.session(call_sid))


def _names(job: bytes, call_sids: Collection[str]) -> bool:
    try:
        content = json.loads(job)
        arguments = [*content["a"], *content["k"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return any(isinstance(argument, str) and argument in call_sids for argument in arguments)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
