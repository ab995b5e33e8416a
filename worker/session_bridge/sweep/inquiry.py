"""Asking providers about calls that only look dead, before silence ends them.

An answer can do three things: a call that lives is left alone for as long as silence may last, one that has ended is
drained with its provider's own word, and one of which nothing was learnt is asked about again, later and later.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from session_bridge.contract.keys import is_call_sid
from session_bridge.contract.vocabulary import EndReason
from session_bridge.errors import RedisUnavailableError
from session_bridge.live.questions import Leave, Questions
from session_bridge.live.scan import Look, SessionScan
from session_bridge.providers.answer import Answer, Provider, Question, Word
from session_bridge.providers.directory import Directory

log = structlog.get_logger(__name__)

ENDED_BY_PROVIDER = "its provider says it ended"
_AT_ONCE = 8
_LONGEST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A silent call, whom to ask about it, and the status that its session had."""

    provider: Provider
    question: Question
    status: str


class Inquiry:
    """Asks about silent calls, a few at a time. `answers` counts what it heard since it began."""

    def __init__(self, directory: Directory, questions: Questions, scan: SessionScan) -> None:
        self._directory = directory
        self._questions = questions
        self._scan = scan
        self.answers: Counter[str] = Counter()

    def suspect(self, look: Look) -> Suspect | None:
        """This session as one to ask about, if there is somebody to ask."""
        provider = self._directory.find(look.state["provider"])
        if provider is None or not is_call_sid(look.call_sid):
            return None
        question = Question(look.call_sid, look.state["account_sid"], look.state["room_name"])
        return Suspect(provider, question, look.state["status"]) if provider.can_ask(question) else None

    async def ask(self, suspects: Sequence[Suspect], report: Counter[str], *, limit: int, seconds: float) -> int:
        """Ask about those whose turn it is; returns how many drains were asked for.

        `report` counts the answers; of `limit` drains at most. After so many seconds nobody more is asked, and only
        what was asked is waited for: the rest is a later sweep's. Raises RedisUnavailableError.
        """
        if not suspects:
            return 0
        due = set(await self._questions.due([suspect.question.call_sid for suspect in suspects]))
        round_ = _Round(
            deque(suspect for suspect in suspects if suspect.question.call_sid in due),
            report,
            limit,
            asyncio.get_running_loop().time() + min(seconds, _LONGEST_SECONDS),
        )
        tasks = [asyncio.create_task(self._work(round_)) for _ in range(min(_AT_ONCE, len(round_.waiting)))]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return round_.rescued

    async def _work(self, round_: _Round) -> None:
        while round_.goes_on and asyncio.get_running_loop().time() < round_.until:
            suspect = round_.waiting.popleft()
            round_.asking += 1
            try:
                leave = await self._questions.leave(suspect.question.call_sid, suspect.provider.name)
                if leave is Leave.ENOUGH:
                    round_.waiting.clear()
                if leave is Leave.ASK:
                    await self._ask(suspect, round_)
            except RedisUnavailableError:
                round_.waiting.clear()
                raise
            finally:
                round_.asking -= 1

    async def _ask(self, suspect: Suspect, round_: _Round) -> None:
        name, sid = suspect.provider.name, suspect.question.call_sid
        try:
            answer = await suspect.provider.ask(suspect.question)
        except Exception as error:  # noqa: BLE001  # whatever it is, it says nothing of the call
            answer = Answer(Word.UNKNOWN, f"a bug of the bridge, please report it: {type(error).__name__}")
        for count in (round_.report, self.answers):
            count[answer.word] += 1
        log.info("sweep.asked", call_sid=sid, provider=name, answer=answer.word.value, why=answer.why)
        if answer.pause_seconds:
            await self._questions.pause(name, answer.pause_seconds)
            advice = "its calls are kept and asked about again; nothing is ended for it"
            if answer.refused:
                advice = "it does not accept the credentials that are set: `session-bridge doctor` says more"
            log.warning("provider.paused", provider=name, why=answer.why, seconds=answer.pause_seconds, advice=advice)
        if answer.word is Word.ENDED:
            if await self._questions.write_end(sid, name, suspect.status, answer.facts):
                await self._rescue(sid, ENDED_BY_PROVIDER, round_)
            return
        missing = answer.settles_after is not None
        absent = await self._questions.answered(sid, lives=answer.word is Word.LIVE, missing=missing)
        if answer.settles_after is not None and absent >= answer.settles_after:
            # The provider serves us, and never knew it in all that time: nobody vouches for it.
            await self._rescue(sid, EndReason.ABANDONED, round_)

    async def _rescue(self, call_sid: str, reason: str, round_: _Round) -> None:
        await self._scan.request({call_sid: reason})
        round_.rescued += 1


@dataclass(slots=True)
class _Round:
    """One round of questions."""

    waiting: deque[Suspect]
    report: Counter[str]
    limit: int
    until: float
    asking: int = 0
    rescued: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether there is one to ask about, and room for the drain it may need."""
        return bool(self.waiting) and self.rescued + self.asking < self.limit
