"""What one call is to its user's account: the sums that a drain settles and adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Charge:
    """What a call of a user cost, by currency, in cents to ten places; `ended` is False for one that still lives."""

    call_sid: str
    session_id: str
    tenant_id: str
    user_id: str
    amounts: Mapping[str, Decimal]
    ended: bool
