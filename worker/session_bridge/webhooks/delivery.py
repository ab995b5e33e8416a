"""Writing what a callback said to the live session, in one round trip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from session_bridge.contract.fields import STATUS_FIELDS, FinalizedBy
from session_bridge.contract.keys import Keys, is_call_sid
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, Status, status_of, words_for
from session_bridge.errors import RedisUnavailableError, UnreadableCallbackError
from session_bridge.recorder.scripts import Script
from session_bridge.recorder.snapshot import text_bytes
from session_bridge.webhooks.news import News

_SCRIPT = Script.load("times", "news", package=__package__)
_TRIES = 2


def _word_list(statuses: Iterable[Status]) -> str:
    return f" {' '.join(sorted(word for status in statuses for word in words_for(status)))} "


_WORDS = tuple(map(_word_list, (TERMINAL, PROVISIONAL, set(Status) - TERMINAL - PROVISIONAL)))


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where live sessions are, and how they are named."""

    redis: Redis
    keys: Keys = field(default_factory=Keys)
    ttl_seconds: int = 3600

    async def deliver(self, news: Sequence[News], provider: str) -> None:
        """Write `news` of this provider; when it returns, Redis has acknowledged all of it.

        Writing the same news again changes nothing. Raises UnreadableCallbackError if one names no call, and
        RedisUnavailableError if Redis cannot be reached or refuses.
        """
        if any(not is_call_sid(one.call_sid) for one in news):
            raise UnreadableCallbackError("the body names no call: its id is missing, too long or no text")
        if not news:
            return
        runs = [self._arguments(one, provider) for one in news]
        for left in reversed(range(_TRIES)):
            try:
                await self._run(runs)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                # The first may only have met a connection that broke while nobody used it.
                if not left:
                    raise RedisUnavailableError("Redis does not answer: the provider has to ask again") from error
            except RedisError as error:
                raise RedisUnavailableError("Redis refuses what is written: look at its log") from error
            else:
                return

    def _arguments(self, news: News, provider: str) -> tuple[str | bytes, ...]:
        fields = dict(news.fields)
        fields.setdefault("provider", provider)
        if status_of(fields.get("status", "")) is None:
            # A word that nobody knows is kept, and takes no known one's place.
            told = {name: fields.pop(name, "") for name in STATUS_FIELDS if name.startswith("status")}
            fields |= {"unknown_status": told["status"]} if told["status"] else {}
        else:
            fields.setdefault("status_by", provider)
        keys = (self.keys.session(news.call_sid), self.keys.ready, self.keys.opened)
        over = ("1" if news.ended else "", news.reason or f"{provider} webhook", FinalizedBy.WEBHOOK.value)
        pairs = [text_bytes(part) for pair in fields.items() for part in pair]
        return (*keys, news.call_sid, str(self.ttl_seconds), *over, self.keys.wake, *_WORDS, *pairs)

    async def _run(self, runs: Sequence[tuple[str | bytes, ...]]) -> None:
        answers = await self._evaluate(runs)
        missing = [run for run, answer in zip(runs, answers, strict=True) if isinstance(answer, NoScriptError)]
        if missing:
            await self.redis.script_load(cast("str", _SCRIPT.text))
            # All of them again, in their order: what was written already is only written once more.
            answers = await self._evaluate(runs)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    async def _evaluate(self, runs: Sequence[tuple[str | bytes, ...]]) -> list[object]:
        pipeline = self.redis.pipeline(transaction=False)
        for run in runs:
            pipeline.evalsha(_SCRIPT.digest, 3, *cast("tuple[str, ...]", run))
        return cast("list[object]", await pipeline.execute(raise_on_error=False))
