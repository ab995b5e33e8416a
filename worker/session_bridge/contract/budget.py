"""A user's budget as the worker tells recorders of it, through Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

from session_bridge.contract.rates import DEFAULT_CURRENCY

NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a user may spend, in cents of `currency`; None is no limit.

    The warning comes when `warning_threshold` of a limit is reached. `spent_cents` is what the ended calls of `month`
    (`2026-11`, UTC) cost; in any other month it is nothing.
    """

    monthly_cents: Decimal | None = None
    call_cap_cents: Decimal | None = None
    warning_threshold: Decimal = Decimal("0.8")
    auto_cutoff: bool = False
    currency: str = DEFAULT_CURRENCY
    month: str = ""
    spent_cents: Decimal = NOTHING

    def spent_in(self, month: str) -> Decimal:
        """What the ended calls of this month cost."""
        return self.spent_cents if self.month == month else NOTHING

    def dump(self) -> str:
        """As compact JSON."""
        monthly, cap = self.monthly_cents, self.call_cap_cents
        return json.dumps(
            {
                "monthly": None if monthly is None else str(monthly),
                "cap": None if cap is None else str(cap),
                "warn": str(self.warning_threshold),
                "cutoff": self.auto_cutoff,
                "currency": self.currency,
                "month": self.month,
                "spent": str(self.spent_cents),
            },
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str | bytes) -> Budget:
        """Back from `dump`; raises ValueError, KeyError or TypeError for what is none."""
        told = json.loads(text)
        monthly, cap = told["monthly"], told["cap"]
        return cls(
            None if monthly is None else Decimal(monthly),
            None if cap is None else Decimal(cap),
            Decimal(told["warn"]),
            bool(told["cutoff"]),
            str(told["currency"]),
            str(told["month"]),
            Decimal(told["spent"]),
        )


# Fields of a user's hash (`Keys.budget`) and of a call's (`Keys.spend`).
VERSION, BUDGET = "version", "budget"
CALL, WARNED = "call:", "warned:"
"""Before a call SID: what that live call costs. Before a month: by which call its warning was told."""
PART, TIME, NEAR, CAP = "part:", "time", "near", "cap"
"""Before a recorder's name: what it has seen being used. The rest: the line's cost, and who told of warning and cap."""
STALE_SECONDS = 86_400
"""A live call's cost that nobody renewed for so long is no live call's."""


def dump_cost(cents: Decimal, at_seconds: int) -> str:
    """What a live call costs, and when that was known."""
    return f"{cents:f}@{at_seconds}"


def load_cost(text: str, now_seconds: int) -> Decimal:
    """Back from `dump_cost`; nothing for one that is stale or not readable."""
    cents, _, at = text.partition("@")
    if not at.isdecimal() or now_seconds - int(at) > STALE_SECONDS:
        return NOTHING
    return Decimal(cents)
