"""`session-bridge budget`: what users may spend in a month and in a call, and how that stands."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from decimal import Decimal

import click

from session_bridge.archive.budgets import BudgetStatus, budget_status, remove_budget, set_budget
from session_bridge.cli.output import EXIT_ERROR, console, print_facts, print_json, print_table
from session_bridge.cli.values import Cents, shown
from session_bridge.contract.budget import Budget
from session_bridge.contract.ids import now
from session_bridge.contract.rates import DEFAULT_CURRENCY, currency_of
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings


@click.group("budget")
def budget_command() -> None:
    """Show and set what users may spend, in cents. Recorders with `on_budget` say when a limit is near or reached."""


@budget_command.command("show")
@click.argument("user_id", required=False)
@click.option("--tenant", "tenant_id", help="Of this tenant; of none if a user is named without one.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Show at most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show_command(*, user_id: str | None, tenant_id: str | None, limit: int, as_json: bool) -> None:
    """Show all budgets, or one user's with what each live call costs by now."""
    tenant = tenant_id if user_id is None else tenant_id or ""

    async def read() -> tuple[list[BudgetStatus], dict[str, Decimal]]:
        async with open_bridge(load_settings()) as bridge:
            found = await budget_status(bridge.connections, tenant_id=tenant, user_id=user_id, limit=limit)
            live = {} if user_id is None else await bridge.board.live(tenant or "", user_id)
            return found, live

    found, live = asyncio.run(read())
    if as_json:
        print_json([asdict(one) | ({"live_calls": live} if user_id is not None else {}) for one in found])
    elif not found:
        console.print("no budgets: `session-bridge budget set USER --month CENTS --call CENTS` sets one")
    elif user_id is None:
        columns = ("user", "tenant", "month's budget", "spent", "cap of a call", "currency", "cutoff")
        rows = [
            (
                *(b.user_id, b.tenant_id, shown(b.monthly_budget_cents), shown(b.month_spend_cents)),
                *(shown(b.call_cap_cents), b.currency, "yes" if b.auto_cutoff else "no"),
            )
            for b in found
        ]
        print_table("budgets", columns, rows)
    else:
        facts = asdict(found[0])
        money = {name: shown(value) for name, value in facts.items() if isinstance(value, Decimal)}
        print_facts({name.replace("_", " "): money.get(name, value) for name, value in facts.items()})
        if live:
            calls = [(sid, shown(cents)) for sid, cents in sorted(live.items())]
            print_table("live calls", ("call SID", "cents by now"), calls)


@budget_command.command("set")
@click.argument("user_id")
@click.option("--tenant", "tenant_id", default="", help="The user's tenant.")
@click.option(
    "--month", "monthly", type=Cents(), help="Cents that all calls of a month may cost; no limit if not given."
)
@click.option("--call", "cap", type=Cents(), help="Cents that one call may cost; no limit if not given.")
@click.option("--warn-at", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Part of a limit.")
@click.option("--cutoff/--no-cutoff", default=False, help="Whether a call is to be ended at a limit.")
@click.option("--currency", type=currency_of, metavar="CODE", default=DEFAULT_CURRENCY, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the budget as JSON.")
def set_command(
    *,
    user_id: str,
    tenant_id: str,
    monthly: Decimal | None,
    cap: Decimal | None,
    warn_at: float,
    cutoff: bool,
    currency: str,
    as_json: bool,
) -> None:
    """Set what USER_ID may spend; all of it, in place of what was set before."""
    if not user_id:
        raise click.UsageError("name a user")
    budget = Budget(monthly, cap, Decimal(str(warn_at)), cutoff, currency)

    async def write() -> Budget:
        async with open_bridge(load_settings()) as bridge:
            state = await set_budget(bridge.connections, tenant_id, user_id, budget, now())
            await bridge.money.refresh(at_once=True)
            return state.budget

    kept = asyncio.run(write())
    if as_json:
        print_json({"tenant_id": tenant_id, "user_id": user_id} | asdict(kept))
    else:
        console.print(f"set; {shown(kept.spent_cents)} cents of {kept.month} are spent, and recorders know it")


@budget_command.command("remove")
@click.argument("user_id")
@click.option("--tenant", "tenant_id", default="", help="The user's tenant.")
def remove_command(*, user_id: str, tenant_id: str) -> None:
    """Take a user's budget away."""

    async def write() -> bool:
        async with open_bridge(load_settings()) as bridge:
            removed = await remove_budget(bridge.connections, tenant_id, user_id)
            await bridge.board.forget(tenant_id, user_id)
            return removed

    if not asyncio.run(write()):
        console.print("there was no such budget: see `session-bridge budget show`")
        raise SystemExit(EXIT_ERROR)
    console.print("removed")
