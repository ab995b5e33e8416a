"""What a live call costs by now, and the word to the session manager when that reaches its user's limits.

Rates and budgets are read where the worker publishes them. What this call has cost so far is written beside them, so
that a user's calls in any number of processes are one sum; and the right to say that a limit was reached is taken in
Redis, so that it is said once, whoever sees it first. All of it happens in a task beside the call, never delaying it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.budget import (
    BUDGET,
    CALL,
    CAP,
    NEAR,
    NOTHING,
    PART,
    STALE_SECONDS,
    TIME,
    VERSION,
    WARNED,
    Budget,
    dump_cost,
    load_cost,
)
from session_bridge.contract.keys import Keys
from session_bridge.contract.rates import DEFAULT_CURRENCY, NO_RATES, RateBook, month_of
from session_bridge.contract.times import parse_time
from session_bridge.recorder.bill import Bill, Facts
from session_bridge.recorder.config import keys_or_default
from session_bridge.recorder.entries import Line
from session_bridge.recorder.moments import MOMENTS

_logger = logging.getLogger("session_bridge.recorder")

_RATES_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
_FACTS = ("user_id", "tenant_id", "started_at", "answered_at", "ended_at", "provider", "direction")


@dataclass(frozen=True, slots=True)
class BudgetNotice:
    """What the session manager is told: a limit is near (`warning`) or reached (`cap`).

    `scope` says which limit: that of this call, or of the user's month, all live calls included. `cutoff` says that the
    user's budget wants the call to be ended now; ending it is the session manager's.
    """

    kind: Literal["warning", "cap"]
    scope: Literal["call", "month"]
    call_sid: str
    spent_cents: Decimal
    limit_cents: Decimal
    currency: str
    cutoff: bool


OnBudget = Callable[[BudgetNotice], None]
"""Called in the event loop, and so must not block; what it raises is logged and goes no further."""


@dataclass(frozen=True, slots=True)
class UserSpend:
    """What a user may spend, and has: the month with its live calls, and each live call by its SID."""

    budget: Budget | None
    month_cents: Decimal
    calls: Mapping[str, Decimal]


async def user_spend(redis: Redis, user_id: str, *, tenant_id: str = "", keys: Keys | None = None) -> UserSpend:
    """How a user's budget stands at this moment, live calls included: to be asked before a call is taken."""
    key = keys_or_default(keys).budget(tenant_id, user_id)
    fields = _texts(await cast("Awaitable[dict[object, object]]", redis.hgetall(key)))
    budget = Budget.load(fields[BUDGET]) if BUDGET in fields else None
    calls = _live_calls(fields, MOMENTS.milliseconds() // 1000)
    spent = budget.spent_in(month_of(datetime.now(UTC))) if budget else NOTHING
    return UserSpend(budget, spent + sum(calls.values(), NOTHING), calls)


class BudgetWatch:
    """Watches one call, for one recorder."""

    def __init__(
        self,
        line: Line,
        redis: Redis,
        keys: Keys,
        *,
        user: tuple[str, str] | None,
        budget: Budget | None,
        tell: OnBudget | None,
        every_seconds: float,
    ) -> None:
        """`user` is tenant and user, if known yet; `budget` goes before a published one; `tell` None only adds up."""
        self.spent: Decimal | None = None
        self.bill = Bill()
        self._line = line
        self._redis = redis
        self._keys = keys
        self._given = budget
        self._budget = budget
        self._tell = tell
        self._every = every_seconds
        self._name = MOMENTS.stamp()[1]
        self._rates = NO_RATES
        self._rates_at = -_RATES_SECONDS
        self._facts = Facts()
        self._user = user
        self._others = self._others_live = NOTHING
        self._told: set[str] = set()
        self._unclaimed: list[tuple[str, str]] = []
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch. The task ends with the recorder: it holds no more than a weak reference to this."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                _watch(weakref.ref(self), self._over, self._every), name="session-bridge budget"
            )

    async def stop(self, seconds: float) -> None:
        """Look once more, and stop within so many seconds; after this nothing of the call is written here."""
        self._over.set()
        if self._task is not None:
            _, late = await asyncio.wait({self._task}, timeout=seconds)
            for task in late:
                task.cancel()
                await asyncio.wait({task}, timeout=seconds)
            self._task = None

    # -- one look -----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Add up, exchange with the user's other calls, and say what was reached."""
        now = datetime.now(UTC)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._read()
                own, time = self._own(now)
                call, month = await self._exchange(own, time, now)
                await self._claim_what_was_told()
                self.spent = call
                await self._judge(call, month, now, away=False)
        except (RedisError, OSError, TimeoutError) as error:
            _logger.debug("a call's cost is added up without Redis: %r", error)
            own, time = self._own(now)
            self.spent = call = own + time + self._others
            spent = self._budget.spent_in(month_of(now)) if self._budget else NOTHING
            await self._judge(call, spent + self._others_live + call, now, away=True)

    async def _read(self) -> None:
        """What is known of the call and of the rates."""
        loop = asyncio.get_running_loop()
        pipe = self._redis.pipeline(transaction=False)
        pipe.hmget(self._keys.session(self._line.sid), list(_FACTS))
        due = loop.time() - self._rates_at >= _RATES_SECONDS
        if due:
            pipe.get(self._keys.rates)
        facts, *rates = await pipe.execute()
        known = {name: _text(value) for name, value in zip(_FACTS, facts, strict=True) if value is not None}
        if known.get("user_id"):
            self._user = (known.get("tenant_id", ""), known["user_id"])
        self._facts = Facts(
            _moment(known.get("started_at")),
            _moment(known.get("answered_at")),
            _moment(known.get("ended_at")),
            known.get("provider", ""),
            known.get("direction", ""),
        )
        if due:
            self._rates_at = loop.time()
            if rates[0] is not None:
                with suppress(ValueError, TypeError):
                    self._rates = RateBook.load(_text(rates[0]))

    def _own(self, now: datetime) -> tuple[Decimal, Decimal]:
        """What this recorder has seen being used, and what the line costs, in the budget's currency."""
        currency = self._budget.currency if self._budget else DEFAULT_CURRENCY
        return self.bill.add_up(self._rates, self._facts, currency, now)

    async def _exchange(self, own: Decimal, time: Decimal, now: datetime) -> tuple[Decimal, Decimal]:
        """Write what this call costs, read what the user's calls do, and return the sums of the call and the month."""
        seconds = int(now.timestamp())
        call_key, sid = self._keys.spend(self._line.sid), self._line.sid
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(call_key, mapping={f"{PART}{self._name}": f"{own:f}", f"{TIME}:{self._name}": f"{time:f}"})
        pipe.expire(call_key, self._line.ttl_seconds)
        pipe.hgetall(call_key)
        if self._user is not None:
            user_key = self._keys.budget(*self._user)
            pipe.hset(user_key, f"{CALL}{sid}", dump_cost(own + time + self._others, seconds))
            pipe.hgetall(user_key)
        answers = await pipe.execute()
        call = _call_cost(_texts(answers[2]))
        self._others = max(call - own - time, NOTHING)
        if self._user is None:
            return call, call
        user = _texts(answers[4])
        if VERSION not in user:
            # Nobody has published a budget, so nobody tidies up either.
            await cast("Awaitable[object]", self._redis.expire(user_key, STALE_SECONDS))
        if self._given is None:
            self._budget = _budget_of(user)
        calls = _live_calls(user, seconds)
        calls.pop(sid, None)
        self._others_live = sum(calls.values(), NOTHING)
        published = _budget_of(user) or self._budget
        spent = published.spent_in(month_of(now)) if published else NOTHING
        return call, spent + self._others_live + call

    # -- limits -------------------------------------------------------------------------------------------------

    async def _judge(self, call: Decimal, month: Decimal, now: datetime, *, away: bool) -> None:
        budget = self._budget
        if budget is None or self._tell is None:
            return
        cap, monthly, threshold = budget.call_cap_cents, budget.monthly_cents, budget.warning_threshold
        if monthly is not None and month >= threshold * monthly and self._user is not None:
            flag = f"{WARNED}{month_of(now)}:{(threshold * monthly).normalize():f}"
            await self._say("warning", "month", month, monthly, (self._keys.budget(*self._user), flag), away=away)
        if cap is not None and call >= threshold * cap:
            await self._say("warning", "call", call, cap, (self._keys.spend(self._line.sid), NEAR), away=away)
        reached = (self._keys.spend(self._line.sid), CAP)
        if cap is not None and call >= cap:
            await self._say("cap", "call", call, cap, reached, away=away)
        elif monthly is not None and month >= monthly:
            await self._say("cap", "month", month, monthly, reached, away=away)

    async def _say(
        self,
        kind: Literal["warning", "cap"],
        scope: Literal["call", "month"],
        spent: Decimal,
        limit: Decimal,
        flag: tuple[str, str],
        *,
        away: bool,
    ) -> None:
        """Say it, if nobody has: the first to set the flag may. Without Redis each recorder says it for itself."""
        if flag[1] in self._told or self._budget is None or self._tell is None:
            return
        if away:
            self._unclaimed.append(flag)
        elif not await self._claim(flag):
            self._told.add(flag[1])
            return
        self._told.add(flag[1])
        cutoff = kind == "cap" and self._budget.auto_cutoff
        notice = BudgetNotice(kind, scope, self._line.sid, spent, limit, self._budget.currency, cutoff)
        try:
            self._tell(notice)
        except Exception as error:  # noqa: BLE001  # the caller's own function; its words may quote the call
            _logger.error("on_budget raised %s; the call goes on", type(error).__qualname__)  # noqa: TRY400

    async def _claim(self, flag: tuple[str, str]) -> bool:
        return bool(await cast("Awaitable[int]", self._redis.hsetnx(*flag, self._name)))

    async def _claim_what_was_told(self) -> None:
        """Redis is back: what was said meanwhile is not for others to say again."""
        while self._unclaimed:
            await self._claim(self._unclaimed[-1])
            self._unclaimed.pop()


async def _watch(watched: weakref.ref[BudgetWatch], over: asyncio.Event, every: float) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(every):
                await over.wait()
        watch = watched()
        if watch is None:
            return
        try:
            await watch.look()
        except Exception as error:  # noqa: BLE001  # a call is never disturbed by what it costs
            _logger.error("a call's cost cannot be added up (%s); trying again", type(error).__qualname__)  # noqa: TRY400
        del watch
        if over.is_set():
            return


def _budget_of(fields: Mapping[str, str]) -> Budget | None:
    try:
        return Budget.load(fields[BUDGET]) if BUDGET in fields else None
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return None


def _call_cost(fields: Mapping[str, str]) -> Decimal:
    """All parts of a call, and its line, which every recorder of it adds up for itself."""
    parts = [Decimal(value) for name, value in fields.items() if name.startswith(PART)]
    times = [Decimal(value) for name, value in fields.items() if name.startswith(f"{TIME}:")]
    return sum(parts, NOTHING) + max(times, default=NOTHING)


def _live_calls(fields: Mapping[str, str], now_seconds: int) -> dict[str, Decimal]:
    calls = {name: value for name, value in fields.items() if name.startswith(CALL)}
    return {name.removeprefix(CALL): load_cost(value, now_seconds) for name, value in calls.items()}


def _texts(fields: object) -> dict[str, str]:
    """A hash as text, of a client that decodes or does not."""
    return {_text(name): _text(value) for name, value in cast("dict[object, object]", fields).items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _moment(text: str | None) -> datetime | None:
    if text:
        with suppress(ValueError):
            return parse_time(text)
    return None
