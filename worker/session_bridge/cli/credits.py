"""`session-bridge credits`: what users have, and how it came about."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from decimal import Decimal

import click

from session_bridge.archive.credits import Balance, Transaction, balances, grant, history
from session_bridge.cli.output import console, print_json, print_table
from session_bridge.cli.values import Cents, shown
from session_bridge.contract.rates import DEFAULT_CURRENCY, currency_of
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings


@click.group("credits")
def credits_command() -> None:
    """Show and grant credits, in cents.

    With SESSION_BRIDGE_CREDITS set, each call of a user is deducted once, when it is archived, and adjusted when its
    cost changes.
    """


@credits_command.command("show")
@click.argument("user_id", required=False)
@click.option("--tenant", "tenant_id", help="Of this tenant; of none if a user is named without one.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Show at most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show_command(*, user_id: str | None, tenant_id: str | None, limit: int, as_json: bool) -> None:
    """Show the balances of all users, or one user's balance and its history."""
    tenant = tenant_id if user_id is None else tenant_id or ""

    async def read() -> tuple[list[Balance], list[Transaction]]:
        async with open_bridge(load_settings()) as bridge:
            found = await balances(bridge.connections, tenant_id=tenant, user_id=user_id, limit=limit)
            if user_id is None:
                return found, []
            return found, await history(bridge.connections, tenant or "", user_id, limit)

    found, changes = asyncio.run(read())
    if as_json:
        print_json({"balances": [asdict(one) for one in found], "transactions": [asdict(one) for one in changes]})
        return
    if not found:
        console.print("no balances: `session-bridge credits grant USER CENTS` gives one")
        return
    rows = [(b.user_id, b.tenant_id, shown(b.balance_cents), b.currency, b.updated_at) for b in found]
    print_table("balances", ("user", "tenant", "cents", "currency", "changed"), rows)
    if changes:
        columns = ("id", "when", "what", "cents", "balance", "short", "call", "note")
        lines = [
            (
                *(str(c.id), c.created_at, c.kind, shown(c.amount_cents), shown(c.balance_after)),
                *(shown(c.shortfall_cents) if c.shortfall_cents else None, c.session_id, c.note),
            )
            for c in changes
        ]
        print_table("history", columns, lines)


@credits_command.command("grant", context_settings={"ignore_unknown_options": True})
@click.argument("user_id")
@click.argument("amount", type=Cents())
@click.option("--tenant", "tenant_id", default="", help="The user's tenant.")
@click.option("--currency", type=currency_of, metavar="CODE", default=DEFAULT_CURRENCY, show_default=True)
@click.option("--note", help="What for.")
@click.option("--json", "as_json", is_flag=True, help="Print the balance as JSON.")
def grant_command(
    *, user_id: str, amount: Decimal, tenant_id: str, currency: str, note: str | None, as_json: bool
) -> None:
    """Give USER_ID so many cents of credit; a negative AMOUNT takes some back."""
    if not user_id:
        raise click.UsageError("name a user")

    async def write() -> Decimal:
        async with open_bridge(load_settings()) as bridge:
            return await grant(bridge.connections, tenant_id, user_id, amount, currency=currency, note=note)

    balance = asyncio.run(write())
    if as_json:
        print_json({"tenant_id": tenant_id, "user_id": user_id, "currency": currency, "balance_cents": balance})
    else:
        console.print(f"the balance is {shown(balance)} cents ({currency})")
