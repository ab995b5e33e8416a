"""Users' balances: one deduction a call for ever, adjustments after it, and grants.

What a call was charged last is read under the lock of the call's row in the book, which the drain holds: nobody else
settles this call meanwhile. The balances are locked after it, in one order, and held to the end of the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from session_bridge.archive.charges import Charge
from session_bridge.archive.connection import ArchiveConnections, Connection, fetch, run

_NONE = Decimal(0)


@dataclass(frozen=True, slots=True)
class CreditPolicy:
    """How calls are settled: in which currency, and down to which balance; `floor_cents` None is any."""

    currency: str
    floor_cents: Decimal | None


@dataclass(frozen=True, slots=True)
class Settled:
    """How one call was settled now.

    `amount_cents` is what was added to the balance (less than nothing for a deduction), `shortfall_cents` what of the
    call's charge the policy has not let be taken so far.
    """

    charge: Charge
    kind: str
    amount_cents: Decimal
    balance_before: Decimal
    balance_after: Decimal
    charge_cents: Decimal
    shortfall_cents: Decimal
    other_user: bool
    """Whether the call has been given to another user since it was deducted; the first goes on paying."""

    @property
    def negative(self) -> bool:
        """Whether the balance went below nothing by it, or further below."""
        return self.amount_cents < 0 and self.balance_after < 0


_Account = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Before:
    account: _Account
    charge: Decimal
    shortfall: Decimal


async def settle(connection: Connection, charges: Sequence[Charge], policy: CreditPolicy) -> list[Settled]:
    """Settle those of `charges` that have ended and whose sum is not what it was; the others change nothing."""
    ended = sorted((charge for charge in charges if charge.ended), key=lambda charge: charge.session_id)
    if not ended:
        return []
    rows = await fetch(connection, "last_settlements", session_ids=[charge.session_id for charge in ended])
    before = {str(row[0]): _Before((row[1], row[2], row[3]), row[4], row[5]) for row in rows}
    changed: list[tuple[_Account, Charge, Decimal]] = []
    for charge in ended:
        last = before.get(charge.session_id)
        account = last.account if last else (charge.tenant_id, charge.user_id, policy.currency)
        amount = charge.amounts.get(account[2], _NONE)
        if amount != (last.charge if last else _NONE):
            changed.append((account, charge, amount))
    if not changed:
        return []
    balances = await _lock(connection, {account for account, _, _ in changed})
    settled: list[tuple[_Account, Settled]] = []
    for account, charge, amount in changed:
        balance, last = balances[account], before.get(charge.session_id)
        taken, shortfall = _take(amount, last, balance, policy.floor_cents)
        balances[account] = balance - taken
        one = Settled(
            charge,
            "adjustment" if last else "deduction",
            -taken,
            balance,
            balances[account],
            amount,
            shortfall,
            account[:2] != (charge.tenant_id, charge.user_id),
        )
        settled.append((account, one))
    await _enter(connection, settled)
    await run(connection, "set_balances", **_columns(balances), balance_cents=list(balances.values()))
    return [one for _, one in settled]


def _take(amount: Decimal, last: _Before | None, balance: Decimal, floor: Decimal | None) -> tuple[Decimal, Decimal]:
    """What to take for a call now, and what of its charge is then still short.

    More is taken as far as the floor allows. Less is given back, but first what was never taken is let off.
    """
    wanted = amount - (last.charge if last else _NONE)
    shortfall = last.shortfall if last else _NONE
    if wanted >= 0:
        taken = wanted if floor is None else max(_NONE, min(wanted, balance - floor))
        return taken, shortfall + wanted - taken
    let_off = min(shortfall, -wanted)
    return wanted + let_off, shortfall - let_off


async def _lock(connection: Connection, accounts: set[_Account]) -> dict[_Account, Decimal]:
    rows = await fetch(connection, "lock_credits", **_columns(sorted(accounts)))
    return {(row[0], row[1], row[2]): row[3] for row in rows}


async def _enter(connection: Connection, settled: Sequence[tuple[_Account, Settled]]) -> None:
    names = ("kind", "amount_cents", "balance_before", "balance_after", "charge_cents", "shortfall_cents")
    await run(
        connection,
        "enter_settlements",
        **_columns([account for account, _ in settled]),
        session_id=[one.charge.session_id for _, one in settled],
        **{name: [getattr(one, name) for _, one in settled] for name in names},
    )


def _columns(accounts: Sequence[_Account] | dict[_Account, Decimal]) -> dict[str, object]:
    tenants, users, currencies = zip(*accounts, strict=True)
    return {"tenant_id": list(tenants), "user_id": list(users), "currency": list(currencies)}


# -- on command -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balance:
    """What a user has."""

    tenant_id: str
    user_id: str
    currency: str
    balance_cents: Decimal
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Transaction:
    """One change of a balance."""

    id: int
    created_at: datetime
    kind: str
    currency: str
    amount_cents: Decimal
    balance_before: Decimal
    balance_after: Decimal
    charge_cents: Decimal | None
    shortfall_cents: Decimal | None
    session_id: UUID | None
    note: str | None


async def grant(
    connections: ArchiveConnections,
    tenant_id: str,
    user_id: str,
    amount_cents: Decimal,
    *,
    currency: str,
    note: str | None = None,
) -> Decimal:
    """Give a user credit, or take some back; returns the balance that leaves."""
    async with connections.transaction() as connection:
        [[balance]] = await fetch(
            connection,
            "grant_credits",
            tenant_id=tenant_id,
            user_id=user_id,
            amount_cents=amount_cents,
            currency=currency,
            note=note,
        )
        return Decimal(balance)


async def balances(
    connections: ArchiveConnections, *, tenant_id: str | None = None, user_id: str | None = None, limit: int = 100
) -> list[Balance]:
    """What users have, at most `limit` of them; those of one tenant or name if that is given."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "balances", tenant_id=tenant_id, user_id=user_id, limit=limit)
    return [Balance(*row) for row in rows]


async def history(connections: ArchiveConnections, tenant_id: str, user_id: str, limit: int = 20) -> list[Transaction]:
    """The last changes of a user's balance, the latest first."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "credit_history", tenant_id=tenant_id, user_id=user_id, limit=limit)
    return [Transaction(*row) for row in rows]
