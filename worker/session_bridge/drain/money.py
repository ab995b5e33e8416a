"""Money in the course of a drain: rates at hand, calls settled in the transaction that writes them, budgets told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import cast

import structlog
from pydantic import JsonValue
from pydantic_core import to_json

from session_bridge.archive.budgets import BudgetState, add_up, any_budgets, changed_budgets
from session_bridge.archive.charges import Charge
from session_bridge.archive.connection import ArchiveConnections, Connection, run
from session_bridge.archive.credits import CreditPolicy, Settled, settle
from session_bridge.archive.rates import read_rates
from session_bridge.archive.tables import COST_BREAKDOWNS
from session_bridge.contract.ids import now
from session_bridge.contract.rates import NO_RATES, PLACES, RateBook
from session_bridge.drain.shape import ShapedCall
from session_bridge.live.budgets import BudgetBoard, Told

log = structlog.get_logger(__name__)

_SMALLEST = Decimal(1).scaleb(-PLACES)
# A change may carry a moment from before the last look and be committed after it: a transaction lasts no longer.
_OVERLAP = timedelta(minutes=5)
_CURRENCY, _TOTAL = (COST_BREAKDOWNS.columns.index(name) for name in ("currency", "total_cost_cents"))


@dataclass(slots=True)
class MoneyRules:
    """What the preparation of a call has to know: the rates, and whether anybody asks what a user's call came to."""

    rates: RateBook = NO_RATES
    charges: bool = False


@dataclass(slots=True)
class Settlement:
    """The money of one transaction: what was done in it, to be told once it is committed."""

    policy: CreditPolicy | None
    budgets: bool
    settled: list[Settled] = field(default_factory=list)
    states: list[BudgetState] = field(default_factory=list)

    async def settle(self, connection: Connection, charges: Sequence[Charge]) -> None:
        """Settle and add up `charges`: balances first, then budgets, each in one order, so that none deadlocks."""
        moment = now()
        if self.policy is not None:
            self.settled = await settle(connection, charges, self.policy)
            for one in self.settled:
                if one.shortfall_cents or one.negative:
                    told: dict[str, JsonValue] = {
                        "balance_cents": f"{one.balance_after:f}",
                        "charge_cents": f"{one.charge_cents:f}",
                        "shortfall_cents": f"{one.shortfall_cents:f}",
                    }
                    await run(
                        connection,
                        "enter_journal",
                        session_id=one.charge.session_id,
                        at=moment,
                        event="credits_short",
                        detail=to_json(told).decode(),
                    )
        if self.budgets:
            users = [(charge.tenant_id, charge.user_id) for charge in charges]
            self.states = await add_up(connection, users, moment)


class Money:
    """What a worker knows of rates and budgets, read anew every so many seconds, and what it does with them."""

    def __init__(
        self,
        connections: ArchiveConnections,
        board: BudgetBoard,
        *,
        rated: bool,
        policy: CreditPolicy | None,
        every_seconds: float,
    ) -> None:
        """`rated` False leaves every rate alone; `policy` None settles no credit."""
        self.rules = MoneyRules(charges=policy is not None)
        self._connections = connections
        self._board = board
        self._rated = rated
        self._policy = policy
        self._every = every_seconds
        self._next = 0.0
        self._budgets = False
        self._reading = asyncio.Lock()

    async def refresh(self, *, at_once: bool = False) -> None:
        """Read rates and budgets anew if it is time, and tell recorders what has changed.

        Raises ArchiveUnavailableError or RedisUnavailableError; what is known stays known.
        """
        if time.monotonic() < self._next and not at_once:
            return
        async with self._reading:
            if time.monotonic() < self._next and not at_once:
                return
            if self._rated:
                rates = await read_rates(self._connections)
                if rates.rates != self.rules.rates.rates:
                    self.rules.rates = rates
                await self._board.tell_rates(rates.dump())
            await self._tell_changes()
            self._next = time.monotonic() + self._every

    async def _tell_changes(self) -> None:
        self._budgets, moment = await any_budgets(self._connections)
        self.rules.charges = self._budgets or self._policy is not None
        if not self._budgets:
            return
        told = await self._board.told_until()
        after = ("", "")
        while changed := await changed_budgets(self._connections, told - _OVERLAP if told else None, after):
            await self._board.tell(map(_told, changed))
            after = (changed[-1].tenant_id, changed[-1].user_id)
        await self._board.note_told(moment)

    def settlement(self) -> Settlement | None:
        """What the next transaction does about money; None if nothing."""
        return Settlement(self._policy, self._budgets) if self.rules.charges else None

    async def committed(self, settlement: Settlement, charges: Sequence[Charge]) -> None:
        """Say and tell what a transaction has done, before its calls are let go: whoever dies here is made good."""
        for one in settlement.settled:
            _say(one)
        sids = {(charge.tenant_id, charge.user_id): charge.call_sid for charge in charges}
        for state in settlement.states:
            sid = sids.get((state.tenant_id, state.user_id))
            if state.exceeded_now:
                log.warning("budget.exceeded", call_sid=sid, advice="session-bridge budget show")
            elif state.warned_now:
                log.warning("budget.warning", call_sid=sid, advice="session-bridge budget show")
        if self._budgets:
            await self._board.tell(map(_told, settlement.states))
            ended = [(one.call_sid, one.tenant_id, one.user_id) for one in charges if one.ended]
            await self._board.ended(ended)


def _told(state: BudgetState) -> Told:
    return Told(state.tenant_id, state.user_id, state.version, state.budget)


def _say(one: Settled) -> None:
    sid = one.charge.call_sid
    if one.other_user:
        log.warning("credits.other_user", call_sid=sid, advice="the user of its first deduction goes on paying")
    if one.shortfall_cents:
        advice = "the rest is in credit_transactions.shortfall_cents"
        log.warning("credits.short", call_sid=sid, shortfall_cents=f"{one.shortfall_cents:f}", advice=advice)
    elif one.negative:
        log.warning("credits.negative", call_sid=sid, balance_cents=f"{one.balance_after:f}")


def charge_of(shaped: ShapedCall, *, ended: bool) -> Charge | None:
    """What a call is to its user's account; None if it names no user."""
    session = shaped.session
    user, tenant = session["user_id"], session["tenant_id"] or ""
    if not isinstance(user, str) or not isinstance(tenant, str):
        return None
    with localcontext(prec=80):
        amounts = {
            str(row[_CURRENCY]): cast("Decimal", row[_TOTAL]).quantize(_SMALLEST, ROUND_HALF_UP)
            for row in shaped.rows[COST_BREAKDOWNS]
        }
    return Charge(str(session["call_sid"]), str(session["id"]), tenant, user, amounts, ended)
