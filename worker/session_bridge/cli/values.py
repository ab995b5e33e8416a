"""What money commands take: exact amounts, and moments."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from session_bridge.contract.models import as_money
from session_bridge.contract.times import parse_time


class Cents(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    """An amount in cents, exactly as it is written."""

    name = "cents"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:  # noqa: ANN401  # click's own signature
        """The amount as a Decimal of ten places."""
        try:
            number = Decimal(str(value))
            money = as_money(number)
        except (InvalidOperation, ValueError):
            self.fail(f"{value} is no amount in cents; write 1.30, say", param, ctx)
        if money != number:
            self.fail(f"{value} has more than ten places", param, ctx)
        return money


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic only in later versions
    """A moment: a day, or ISO 8601; without a zone it is UTC."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:  # noqa: ANN401  # click's own signature
        """The moment, in UTC."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value)
        except ValueError:
            self.fail(f"{value} is no moment; write 2026-01-01, or 2026-01-01T12:00:00Z", param, ctx)


def shown(cents: Decimal | None) -> str | None:
    """An amount for people: without the zeros at its end, but for two."""
    if cents is None:
        return None
    text = f"{cents:f}"
    whole, _, places = text.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"
