"""`session-bridge ledger`: the books, and whether they balance."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.text import Text

from session_bridge.cli.output import EXIT_ERROR, console, errors, print_facts, print_json
from session_bridge.ledger import Ledger, take_ledger
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings


@click.command("ledger")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def ledger_command(*, as_json: bool) -> None:
    """Add up the books: every call SID ever seen is in exactly one place.

    Opened is the sum of live, checkpointed, due, archived, dead, lost and retired. Where it is not, the SIDs that stand
    nowhere are named: their sessions are gone from Redis and no drain has found that out yet. Exit status 1 then.
    """
    ledger = asyncio.run(_take())
    if as_json:
        print_json(asdict(ledger) | {"balances": ledger.balances})
    else:
        _print(ledger)
    if not ledger.balances:
        raise SystemExit(EXIT_ERROR)


async def _take() -> Ledger:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("looking")

        def show(looked: int) -> None:
            progress.update(task, description=f"{looked:,} live calls looked at")

        async with open_bridge(load_settings()) as bridge:
            return await take_ledger(bridge, show)


def _print(ledger: Ledger) -> None:
    facts = asdict(ledger)
    del facts["missing"]
    print_facts({name.replace("_", " "): count for name, count in facts.items()})
    if ledger.balances:
        console.print(Text("the books balance", style="green"))
        return
    console.print(Text(f"{len(ledger.missing)} call SIDs stand nowhere:", style="bold red"))
    for sid in ledger.missing:
        console.print(f"  {sid}")
    console.print("the next full round of the sweep enters them as lost: `session-bridge sweep`")
