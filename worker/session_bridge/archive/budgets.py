"""Users' budgets: what a month's calls have cost, added up in the transaction that writes one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from session_bridge.archive.connection import ArchiveConnections, Connection, fetch, run
from session_bridge.contract.budget import Budget
from session_bridge.contract.rates import month_of

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A user's budget as of its `version`, and what was reached now, for the first time in its month."""

    tenant_id: str
    user_id: str
    version: int
    budget: Budget
    warned_now: bool = False
    exceeded_now: bool = False


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How a budget stands in the present month; `living_cents` is of live calls, as of their last checkpoints."""

    tenant_id: str
    user_id: str
    currency: str
    monthly_budget_cents: Decimal | None
    warning_threshold: Decimal
    call_cap_cents: Decimal | None
    auto_cutoff: bool
    month: date
    month_spend_cents: Decimal
    living_cents: Decimal
    warned_at: datetime | None
    exceeded_at: datetime | None


async def add_up(connection: Connection, users: Iterable[tuple[str, str]], at: datetime) -> list[BudgetState]:
    """Add up the month of those of these users (tenant, user) who have a budget, and say what was reached by it.

    The sum is taken under the lock of the budget's row, by a statement that begins after it: whoever held the lock
    before is in it. So two calls of one user that are archived at once both count, and a threshold is reached once.
    """
    named = sorted(set(users))
    locked = await fetch(connection, "lock_budgets", **_columns(named))
    if not locked:
        return []
    before = {(row[0], row[1]): row[2:] for row in locked}
    month = at.date().replace(day=1)
    await run(connection, "add_up_budgets", **_columns(sorted(before)), month=month, at=at)
    states = []
    for row in await fetch(connection, "budgets_of", **_columns(sorted(before))):
        old_month, warned, exceeded = before[row[0], row[1]]
        reached = [
            now is not None and (old_month != month or then is None)
            for then, now in ((warned, row[10]), (exceeded, row[11]))
        ]
        states.append(_state(row, *reached))
    return states


def _state(row: Sequence[Any], warned_now: bool = False, exceeded_now: bool = False) -> BudgetState:  # noqa: FBT001, FBT002  # filled from a list
    tenant_id, user_id, version, currency, monthly, threshold, cap, cutoff, month, spent, *_ = row
    told = Budget(monthly, cap, threshold, cutoff, currency, month_of(month) if month else "", spent)
    return BudgetState(tenant_id, user_id, version, told, warned_now, exceeded_now)


def _columns(users: Sequence[tuple[str, str]]) -> dict[str, object]:
    return {"tenant_id": [tenant for tenant, _ in users], "user_id": [user for _, user in users]}


async def any_budgets(connections: ArchiveConnections) -> tuple[bool, datetime]:
    """Whether anybody has a budget, and what time it is in the archive."""
    async with connections.transaction() as connection:
        [[there, at]] = await fetch(connection, "any_budgets")
        return bool(there), at


async def changed_budgets(
    connections: ArchiveConnections, since: datetime | None, after: tuple[str, str] = ("", "")
) -> list[BudgetState]:
    """The next budgets in order that were changed since a moment (or all): some hundreds, none when all were told."""
    async with connections.transaction() as connection:
        rows = await fetch(
            connection, "changed_budgets", since=since, tenant_id=after[0], user_id=after[1], limit=_AT_ONCE
        )
    return [_state(row) for row in rows]


async def set_budget(
    connections: ArchiveConnections, tenant_id: str, user_id: str, budget: Budget, at: datetime
) -> BudgetState:
    """Set a user's budget, and add up what of it is spent."""
    async with connections.transaction() as connection:
        await run(
            connection,
            "set_budget",
            tenant_id=tenant_id,
            user_id=user_id,
            currency=budget.currency,
            monthly_budget_cents=budget.monthly_cents,
            warning_threshold=budget.warning_threshold,
            call_cap_cents=budget.call_cap_cents,
            auto_cutoff=budget.auto_cutoff,
        )
        [state] = await add_up(connection, [(tenant_id, user_id)], at)
        return state


async def remove_budget(connections: ArchiveConnections, tenant_id: str, user_id: str) -> bool:
    """Take a user's budget away; False if there was none."""
    async with connections.transaction() as connection:
        return bool(await run(connection, "remove_budget", tenant_id=tenant_id, user_id=user_id))


async def budget_status(
    connections: ArchiveConnections, *, tenant_id: str | None = None, user_id: str | None = None, limit: int = 100
) -> list[BudgetStatus]:
    """How budgets stand now, at most `limit` of them; those of one tenant or user if that is given."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "budget_status", tenant_id=tenant_id, user_id=user_id, limit=limit)
    return [BudgetStatus(*row) for row in rows]
