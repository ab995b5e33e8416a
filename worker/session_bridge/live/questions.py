"""Questions to providers, as all workers together keep them: who may ask, how often, and what came back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from redis.asyncio import Redis

from session_bridge.contract.keys import Keys
from session_bridge.live.scripts import Argument, Script, run_one
from session_bridge.live.sessions import redis_errors

_QUESTION, _ANSWER, _ENDED = Script.load("question"), Script.load("answer"), Script.load("ended")
_LEASE_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 900.0


class Leave(StrEnum):
    """Whether a call may be asked about now."""

    ASK = "ask"
    LATER = "later"
    """It was asked about not long ago, or is being asked about by another worker."""
    PAUSED = "paused"
    """Its provider is left alone for a while."""
    ENOUGH = "enough"
    """This minute's questions are used up."""


@dataclass(frozen=True, slots=True)
class QuestionRules:
    """How often to ask.

    A call that lives is asked about again after `vouch_seconds`; one of which nothing was learnt first after
    `first_wait_seconds`, then after twice that, and so on. What is known of a call is forgotten after `keep_seconds`
    without a question.
    """

    per_minute: int = 60
    vouch_seconds: float = 3600
    first_wait_seconds: float = 30
    keep_seconds: float = 2 * 86_400


class Questions:
    """Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, keys: Keys, rules: QuestionRules) -> None:
        self._redis = redis
        self._keys = keys
        self._rules = rules

    async def due(self, call_sids: Sequence[str]) -> list[str]:
        """Of these calls, those that were not asked about lately."""
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.time()
            for sid in call_sids:
                pipeline.hget(self._keys.asked(sid), "next_ms")
            time, *nexts = await pipeline.execute()
        seconds, micros = cast("tuple[int, int]", time)
        moment = seconds * 1000 + micros // 1000
        return [sid for sid, next_ms in zip(call_sids, nexts, strict=True) if int(next_ms or 0) <= moment]

    async def leave(self, call_sid: str, provider: str) -> Leave:
        """Leave to ask about a call; with ASK, the question is counted and nobody else asks meanwhile."""
        keys = [self._keys.asked(call_sid), self._keys.questions, self._keys.paused(provider)]
        arguments: list[Argument] = [self._rules.per_minute, _ms(_LEASE_SECONDS), _ms(self._rules.keep_seconds)]
        async with redis_errors():
            return Leave(cast("bytes", await run_one(self._redis, _QUESTION, keys, arguments)).decode())

    async def answered(self, call_sid: str, *, lives: bool, missing: bool) -> float:
        """Remember an answer; returns for how many seconds the provider has not known the call."""
        word = "live" if lives else "missing" if missing else "unknown"
        first = self._rules.first_wait_seconds * random.uniform(0.75, 1)  # noqa: S311  # spreads questions, hides nothing
        waits = [_ms(self._rules.vouch_seconds), _ms(first), _ms(max(first, _LONGEST_WAIT_SECONDS))]
        keys = [self._keys.asked(call_sid), self._keys.session(call_sid)]
        async with redis_errors():
            reply = await run_one(self._redis, _ANSWER, keys, [word, *waits, _ms(self._rules.keep_seconds)])
        return cast("int", reply) / 1000

    async def pause(self, provider: str, seconds: float) -> None:
        """Leave this provider alone, for all workers."""
        async with redis_errors():
            await self._redis.set(self._keys.paused(provider), 1, px=max(1, _ms(seconds)))

    async def write_end(self, call_sid: str, provider: str, status_before: str, facts: Mapping[str, str]) -> bool:
        """Write what a provider says of a call's end into its live session; returns whether there is one."""
        others = [part for name, value in facts.items() if name != "status" for part in (name, value)]
        arguments: list[Argument] = [status_before, provider, "status", facts["status"], *others]
        async with redis_errors():
            return bool(await run_one(self._redis, _ENDED, [self._keys.session(call_sid)], arguments))


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
