"""`session-bridge rates`: what services cost, and since when."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal

import click

from session_bridge.archive.rates import end_rate, read_rates, set_rate
from session_bridge.cli.output import EXIT_ERROR, console, print_json, print_table
from session_bridge.cli.values import Cents, Moment, shown
from session_bridge.contract.ids import now
from session_bridge.contract.rates import DEFAULT_CURRENCY, UNITS, Rate, RateBook, currency_of, service_of, unit_of
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

_UNITS_HELP = f"One of {', '.join(UNITS)}, or a unit of your own."


@click.group("rates")
def rates_command() -> None:
    """List, set and end rates: what a unit of a service costs, in cents, from one moment to another.

    A call is rated when it is drained, by the rates of its start, where nobody has reported its cost.
    """


@rates_command.command("list")
@click.option("--at", "moment", type=Moment(), help="Only those that hold at this moment.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_command(*, moment: datetime | None, as_json: bool) -> None:
    """List all rates."""

    async def read() -> RateBook:
        async with open_bridge(load_settings()) as bridge:
            return await read_rates(bridge.connections)

    rates = [
        rate
        for rate in asyncio.run(read()).rates
        if moment is None or (rate.valid_from <= moment and (rate.valid_to is None or moment < rate.valid_to))
    ]
    if as_json:
        print_json([asdict(rate) for rate in rates])
    elif rates:
        columns = ("id", "service", "provider", "model", "cents", "currency", "per", "step", "from", "to")
        rows = [
            (
                *(str(r.rate_id), r.service, r.provider or "any", r.model or "any", shown(r.price_cents), r.currency),
                *(r.unit, shown(r.step), r.valid_from, r.valid_to),
            )
            for r in rates
        ]
        print_table("rates", columns, rows)
    else:
        console.print("no rates: `session-bridge rates set llm cerebras --unit 1m_tokens --price 10`")


@rates_command.command("set")
@click.argument("service")
@click.argument("provider", default="")
@click.option("--model", default="", help="Only this model; for telephony inbound or outbound.")
@click.option("--unit", required=True, help=_UNITS_HELP)
@click.option("--price", "price_cents", type=Cents(), required=True, help="Cents for one unit.")
@click.option("--currency", type=currency_of, metavar="CODE", default=DEFAULT_CURRENCY, show_default=True)
@click.option("--step", type=Cents(), help="Bill in whole steps of so many units: 1 bills each begun minute.")
@click.option("--from", "valid_from", type=Moment(), help="When it begins to hold; now if not given.")
@click.option("--to", "valid_to", type=Moment(), help="When it ceases to hold.")
@click.option("--json", "as_json", is_flag=True, help="Print the rate as JSON.")
def set_command(
    *,
    service: str,
    provider: str,
    model: str,
    unit: str,
    price_cents: Decimal,
    currency: str,
    step: Decimal | None,
    valid_from: datetime | None,
    valid_to: datetime | None,
    as_json: bool,
) -> None:
    """Set what SERVICE (telephony, stt, llm, tts or your own) of PROVIDER costs; of any provider if none is named.

    The rate that held until then ends there. Archived calls keep their cost until they are drained again.
    """
    since = valid_from or now()
    if valid_to is not None and valid_to <= since:
        raise click.UsageError("a rate ends after it begins: --to is not later than --from")
    rate = Rate(service_of(service), provider, model, unit_of(unit), price_cents, since, valid_to, currency, step)

    async def write() -> int:
        async with open_bridge(load_settings()) as bridge:
            rate_id = await set_rate(bridge.connections, rate)
            await bridge.money.refresh(at_once=True)
            return rate_id

    rate_id = asyncio.run(write())
    if as_json:
        print_json(asdict(rate) | {"rate_id": rate_id})
    else:
        whose = " ".join(filter(None, (rate.service, rate.provider or "of any provider", rate.model)))
        console.print(f"{whose}: {shown(price_cents)} cents a {rate.unit} from {since.isoformat()}")
        console.print(f"workers use it within {load_settings().rates_seconds:g} seconds")


@rates_command.command("end")
@click.argument("service")
@click.argument("provider", default="")
@click.option("--model", default="", help="Of this model; for telephony inbound or outbound.")
@click.option("--unit", required=True, help=_UNITS_HELP)
@click.option("--at", "moment", type=Moment(), help="When it ceases to hold; now if not given.")
def end_command(*, service: str, provider: str, model: str, unit: str, moment: datetime | None) -> None:
    """Let a rate end, and set no other in its place."""

    async def write() -> bool:
        async with open_bridge(load_settings()) as bridge:
            at = moment or now()
            ended = await end_rate(bridge.connections, service_of(service), provider, model, unit_of(unit), at=at)
            await bridge.money.refresh(at_once=True)
            return ended

    if not asyncio.run(write()):
        console.print("no such rate holds then: see `session-bridge rates list`")
        raise SystemExit(EXIT_ERROR)
    console.print("it ends there")
