"""What a call cost: what was reported of it, and what the rates say of what it used.

What was reported wins, service by service: a provider knows its own bill. What the rates say of the same service stands
beside it in the breakdown. A usage that was reported without a price is rated, and then counts in place of what the
metrics and durations say of that service.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, localcontext
from functools import lru_cache

from pydantic import JsonValue

from session_bridge.archive.tables import Row
from session_bridge.contract.event import Event
from session_bridge.contract.fields import Family
from session_bridge.contract.rates import DEFAULT_CURRENCY, WHOLE_CALL, Line, RateBook, Service, Tariff, currency_of
from session_bridge.contract.usage import TRANSCRIBERS, Connection, Meter, lines_of, metrics_of
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, Status
from session_bridge.drain.call import Call
from session_bridge.drain.values import dump_json

# Sums that no column can hold are left out; what they are sums of is archived all the same.
_WIDEST_COST = Decimal("1e14")
# Two factors of 24 digits, and many of their products in one sum.
_EXACT = Context(prec=80)
_NONE = Decimal(0)
_WHOLE = 1e12
_LINE = frozenset((Service.TELEPHONY.value, Service.STT.value))
# Platforms whose report of a call names all that it cost, under words of their own.
_BILL_WHOLE_CALLS = frozenset(("vapi", "retell", "elevenlabs"))
# Who ended so, and never answered, was never connected.
_UNREACHED = frozenset((Status.BUSY, Status.NO_ANSWER, Status.CANCELED, Status.FAILED))


@dataclass(slots=True)
class Cost:
    """What a call cost in one currency, in cents.

    `by_service` is what holds; `reported` is None if nothing was reported, `computed` if no rate applied. `lines` tell
    how what was computed came about, and whether it is part of what holds.
    """

    by_service: dict[str, Decimal] = field(default_factory=dict)
    reported: Decimal | None = None
    computed: Decimal | None = None
    lines: list[JsonValue] = field(default_factory=list)

    @property
    def total(self) -> Decimal:
        """The sum of what holds."""
        return sum(self.by_service.values(), _NONE)


def costs_of(call: Call, rates: RateBook) -> dict[str, Cost]:
    """What `call` cost, by currency."""
    events = call.of(Family.COST)
    tariff = rates.at(_start_of(call)) if rates.rates else None
    if not events and not tariff:
        return {}
    with localcontext(_EXACT):
        costs: dict[str, Cost] = {}
        charges = _reported(costs, events, tariff)
        if costs and call.state.get("provider") in _BILL_WHOLE_CALLS:
            charges.services |= WHOLE_CALL
        if tariff:
            _compute(costs, charges, tariff, call)
        return {
            currency: cost
            for currency, cost in costs.items()
            if max(abs(cost.total), abs(cost.reported or _NONE), cost.computed or _NONE) < _WIDEST_COST
        }


def total_of(costs: dict[str, Cost]) -> Decimal | None:
    """The sum in the one currency of the call, or in the default one where there are several."""
    held = {currency: cost for currency, cost in costs.items() if cost.by_service}
    if not held:
        return None
    with localcontext(_EXACT):
        if DEFAULT_CURRENCY in held:
            return held[DEFAULT_CURRENCY].total
        return next(iter(held.values())).total if len(held) == 1 else None


def cost_rows(costs: dict[str, Cost], head: tuple[str, str | None]) -> list[Row]:
    """The rows of `call_cost_breakdowns`."""
    session_id, tenant_id = head
    with localcontext(_EXACT):
        return [
            (
                session_id,
                currency,
                tenant_id,
                dump_json({service: f"{amount:f}" for service, amount in sorted(cost.by_service.items())}),
                cost.total,
                cost.reported,
                cost.computed,
                dump_json(cost.lines) if cost.lines else None,
            )
            for currency, cost in sorted(costs.items())
        ]


def _start_of(call: Call) -> datetime:
    """The moment whose rates count: the call's start, or the first that is known of it."""
    for name in ("started_at", "answered_at"):
        moment = call.state.get(name)
        if isinstance(moment, datetime):
            return moment
    stamps = [event.timestamp for events in call.events.values() for event in events if event.timestamp]
    if stamps:
        return datetime.fromisoformat(min(stamps))
    ended = call.state.get("ended_at")
    return ended if isinstance(ended, datetime) else _LONG_AGO


_LONG_AGO = datetime.fromisoformat("1970-01-02T00:00:00+00:00")


@dataclass(slots=True)
class _Charges:
    """What the cost events leave to be rated: usages without a price, and the services of which a price was told."""

    unpriced: list[Event] = field(default_factory=list)
    services: set[str] = field(default_factory=set)


def _reported(costs: dict[str, Cost], events: list[Event], tariff: Tariff | None) -> _Charges:
    """Enter in `costs` what was charged, and return the rest."""
    charges = _Charges()
    for event in events:
        amount: Decimal | None = event.amount_cents
        if amount is None and event.usage is not None and event.unit_price_cents is not None:
            amount = event.usage * event.unit_price_cents
        if amount is not None:
            cost = costs.setdefault(currency_of(event.currency), Cost())
            cost.by_service[event.service] = cost.by_service.get(event.service, _NONE) + amount
            cost.reported = (cost.reported or _NONE) + amount
            if tariff:
                charges.services.add(tariff.service_of(event.service, event.provider or ""))
        elif event.usage is not None:
            charges.unpriced.append(event)
    return charges


def _compute(costs: dict[str, Cost], charges: _Charges, tariff: Tariff, call: Call) -> None:
    """Rate what was used, and add to `costs` what nobody has reported."""
    told = Meter()
    for event in charges.unpriced:
        service = tariff.service_of(event.service, event.provider or "")
        told.charged(service, event.usage, event.unit or "", event.provider or "", event.model or "")
    for line, holds in lines_of(tariff, charges.services, told, _metered(call, tariff)):
        _enter(costs, line, holds=holds)


def _enter(costs: dict[str, Cost], line: Line, *, holds: bool) -> None:
    rate = line.rate
    cost = costs.setdefault(rate.currency, Cost())
    cost.computed = (cost.computed or _NONE) + line.amount_cents
    if holds:
        cost.by_service[rate.service] = cost.by_service.get(rate.service, _NONE) + line.amount_cents
    told: dict[str, JsonValue] = {
        "service": rate.service,
        "provider": rate.provider,
        "model": rate.model,
        "measure": line.measure,
        "quantity": f"{line.quantity.normalize():f}",
        "unit": rate.unit,
        "price_cents": f"{rate.price_cents.normalize():f}",
        "amount_cents": f"{line.amount_cents.normalize():f}",
        "rate_id": rate.rate_id,
        "holds": holds,
    }
    cost.lines.append({name: value for name, value in told.items() if value != ""})


def _metered(call: Call, tariff: Tariff) -> Meter:
    """What the call used, by its metrics and by how long it lasted; only what there are rates for is looked at."""
    meter = Meter()
    if wanted := _wanted(tariff):
        # Most are latencies, and most of the rest whole numbers: those are added up before they become Decimals.
        whole: dict[tuple[str, str | None, str | None], int] = {}
        for event in call.of(Family.METRIC):
            if (kind := event.metric_type) in wanted:
                value: float = event.value
                if kind in TRANSCRIBERS:
                    meter.transcriber = meter.transcriber or event.processor or ""
                elif 0 <= value < _WHOLE and value == (count := int(value)):
                    whose = (kind, event.processor, event.model)
                    whole[whose] = whole.get(whose, 0) + count
                else:
                    meter.metric(kind, value, event.processor, event.model)
        for (kind, processor, model), total in whole.items():
            meter.metric(kind, total, processor, model)
    if _LINE & tariff.services:
        meter.connected(_connection(call))
    return meter


@lru_cache(64)
def _wanted(tariff: Tariff) -> frozenset[str]:
    return metrics_of(tariff)


def _connection(call: Call) -> Connection:
    """The line of the call, from its answer, or its start where no answer was told, to its end, or to now."""
    state = call.state
    status, answered, ended = state.get("status"), state.get("answered_at"), state.get("ended_at")
    provider, direction = (str(state.get(name) or "") for name in ("provider", "direction"))
    began = answered if isinstance(answered, datetime) else state.get("started_at")
    if call.doubtful or (status in _UNREACHED and answered is None and not (call.of(Family.MESSAGE) or call.history)):
        began = None
    if not isinstance(ended, datetime) and status not in TERMINAL | PROVISIONAL:
        ended = call.last_activity()
    return Connection(
        began if isinstance(began, datetime) else None,
        ended if isinstance(ended, datetime) else None,
        provider,
        direction,
    )
