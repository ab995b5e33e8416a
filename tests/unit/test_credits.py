"""What is taken for a call, however its charge and its user's balance go up and down."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from session_bridge.archive.credits import _Before, _take

cents = st.decimals(0, 10_000, places=10, allow_nan=False)
floors = st.none() | st.decimals(-1000, 1000, places=2)


@given(st.lists(st.tuples(cents, cents), min_size=1, max_size=12), floors)
def test_what_was_taken_and_what_is_short_are_the_charge_and_no_floor_is_broken(
    steps: list[tuple[Decimal, Decimal]], floor: Decimal | None
) -> None:
    balance = taken_in_all = Decimal(0)
    last: _Before | None = None
    for charge, granted in steps:
        balance += granted
        taken, shortfall = _take(charge, last, balance, floor)
        assert shortfall >= 0
        if floor is None:
            assert shortfall == 0
        elif taken > 0:
            assert balance - taken >= floor
        balance -= taken
        taken_in_all += taken
        assert taken_in_all + shortfall == charge
        assert taken_in_all >= 0, "no call gives its user more than it took"
        last = _Before(("", "ada", "USD"), charge, shortfall)
        assert _take(charge, last, balance + 5, floor) == (Decimal(0), shortfall), "the same again changes nothing"
