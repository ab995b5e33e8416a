"""What one recorder has seen of a call's costs, added up as the worker will add up the whole call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation, localcontext

from session_bridge.contract.budget import NOTHING
from session_bridge.contract.rates import PLACES, RateBook, currency_of
from session_bridge.contract.usage import MONEY_METRICS, Connection, Meter, lines_of

# Past this it is nobody's money, and Decimal's own digits would not do.
_WIDEST = Decimal(10**14)
_SMALLEST = Decimal(1).scaleb(-PLACES)
# What passes while the line is up, whoever looks at it.
_LINE = ("second", "call")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the call's line."""

    started_at: datetime | None = None
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    provider: str = ""
    direction: str = ""


@dataclass(frozen=True, slots=True)
class _Charge:
    """One charge: what it came to, or what was used."""

    word: str
    provider: str
    currency: str
    amount: Decimal | None
    usage: Decimal | None
    unit: str
    model: str


class Bill:
    """The costs and usages that were recorded. `saw` is called with every metric and cost, and never raises."""

    def __init__(self) -> None:
        self._used = Meter()
        self._metrics: dict[str, tuple[str, Decimal, str, str]] = {}
        self._charges: dict[str, _Charge] = {}

    def saw(self, family: str, event_id: str, event: Mapping[str, object]) -> None:
        """Note an event; one of the same id is replaced, as it is in the call."""
        if family == "cost":
            self._charges[event_id] = _charge(event)
            return
        kind = _word(event.get("metric_type"))
        if kind not in MONEY_METRICS:
            return
        if event_id in self._metrics:
            self._count(self._metrics.pop(event_id), -1)
        metric = (
            kind,
            _number(event.get("value")) or NOTHING,
            _word(event.get("processor")),
            _word(event.get("model")),
        )
        self._metrics[event_id] = metric
        self._count(metric, 1)

    def _count(self, metric: tuple[str, Decimal, str, str], sign: int) -> None:
        one = Meter()
        one.metric(*metric)
        for use, quantity in one.usage.items():
            self._used.add(*use[:2], sign * quantity, *use[2:])
        self._used.transcriber = self._used.transcriber or one.transcriber

    def add_up(self, rates: RateBook, facts: Facts, currency: str, now: datetime) -> tuple[Decimal, Decimal]:
        """What was used, and what the line costs until now, in cents of `currency`."""
        began = facts.answered_at or facts.started_at
        tariff = rates.at(facts.started_at or began or now)
        amount, reported, told = NOTHING, set[str](), Meter()
        for charge in list(self._charges.values()):
            service = tariff.service_of(charge.word, charge.provider)
            if charge.amount is not None:
                reported.add(service)
                amount += charge.amount if charge.currency == currency else NOTHING
            elif charge.usage is not None:
                told.charged(service, charge.usage, charge.unit, charge.provider, charge.model)
        whole = Meter(dict(self._used.usage), self._used.transcriber)
        whole.connected(Connection(began, facts.ended_at or now, facts.provider, facts.direction))
        time = NOTHING
        services = {use[0] for use in told.usage}
        seen = {use[:2] for use in self._used.usage}
        for line, holds in lines_of(tariff, reported, told, whole):
            if not holds or line.rate.currency != currency:
                continue
            of_the_line = line.measure in _LINE and (line.rate.service, line.measure) not in seen
            if of_the_line and line.rate.service not in services:
                time += line.amount_cents
            else:
                amount += line.amount_cents
        return amount, time


def _charge(event: Mapping[str, object]) -> _Charge:
    amount, usage = _number(event.get("amount_cents")), _number(event.get("usage"))
    price = _number(event.get("unit_price_cents"))
    if amount is None and usage is not None and price is not None:
        with localcontext(prec=80):
            amount = (usage * price).quantize(_SMALLEST) if abs(usage * price) < _WIDEST else None
    words = {name: _word(event.get(name)) for name in ("service", "provider", "currency", "unit", "model")}
    return _Charge(
        words["service"],
        words["provider"],
        currency_of(words["currency"]),
        amount,
        usage,
        words["unit"],
        words["model"],
    )


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> Decimal | None:
    """The number that JSON will carry, as a Decimal to ten places; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    try:
        number = Decimal(value if isinstance(value, str) else repr(value) if isinstance(value, float) else value)
        return number.quantize(_SMALLEST) if number.is_finite() and abs(number) < _WIDEST else None
    except (InvalidOperation, ValueError):
        return None
