"""`session-bridge readers`: which role in PostgreSQL sees what."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from session_bridge.archive.roles import Reader, Sees, let_read, readers, stop_reading
from session_bridge.cli.output import console, print_json, print_table
from session_bridge.errors import RolesError
from session_bridge.service import archive_of
from session_bridge.settings import Settings, load_settings


@click.group("readers", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_context
def readers_command(context: click.Context, *, as_json: bool) -> None:
    """Show who reads what of the archive.

    A role that is not listed, and is a member of none that is, sees nothing.
    """
    if context.invoked_subcommand is not None:
        return
    found = asyncio.run(_readers(load_settings()))
    if as_json:
        print_json([asdict(reader) for reader in found])
    elif found:
        columns = ("role", "sees", "tenant", "user", "tenant from", "user from", "exists")
        rows = [
            (*(r.role, r.sees, r.tenant, r.user, r.tenant_from, r.user_from), "yes" if r.exists else "no")
            for r in found
        ]
        print_table("readers", columns, rows)
    else:
        console.print("nobody: `session-bridge readers add ROLE --tenant …` lets a role read")


@readers_command.command("add")
@click.argument("role")
@click.option("--all", "everything", is_flag=True, help="Every tenant's calls.")
@click.option("--tenant", help="This tenant's calls.")
@click.option("--user", help="This user's calls; with --tenant, of that tenant alone.")
@click.option("--participant", is_flag=True, help="Of a user, also the calls the user took part in.")
@click.option("--tenant-from", metavar="SQL", help="An expression that says the tenant: for a service alone.")
@click.option("--user-from", metavar="SQL", help="An expression that says the user: for a service alone.")
def add_command(
    *,
    role: str,
    everything: bool,
    tenant: str | None,
    user: str | None,
    participant: bool,
    tenant_from: str | None,
    user_from: str | None,
) -> None:
    """Let ROLE, which must exist, read a part of the archive; or change which part.

    An expression is for a service whose SQL its users cannot write, for whoever writes SQL may set what it reads.

    \b
    session-bridge readers add acme_analyst --tenant acme
    session-bridge readers add app --tenant-from "current_setting('session_bridge.tenant', true)"
    session-bridge readers add authenticated --user-from "auth.uid()"
    """  # noqa: D301  # click keeps the lines after this mark as they are
    of_user = user is not None or user_from is not None
    of_tenant = tenant is not None or tenant_from is not None
    if everything == (of_user or of_tenant):
        raise click.UsageError("name --all, or a tenant or a user")
    if participant and not of_user:
        raise click.UsageError("--participant needs a user")
    sees: Sees = "all" if everything else "participant" if participant else "user" if of_user else "tenant"
    reader = Reader(role, sees, tenant, user, tenant_from, user_from)
    asyncio.run(_let_read(load_settings(), reader))
    console.print(f"{role} reads the archive now")


@readers_command.command("remove")
@click.argument("role")
def remove_command(*, role: str) -> None:
    """Let ROLE read no more; the role itself stays."""
    asyncio.run(_stop(load_settings(), role))
    console.print(f"{role} reads nothing now")


async def _readers(settings: Settings) -> list[Reader]:
    async with archive_of(settings) as connections:
        await connections.require_current()
        return await readers(connections)


async def _let_read(settings: Settings, reader: Reader) -> None:
    async with archive_of(settings) as connections:
        await connections.require_current()
        await let_read(connections, reader)


async def _stop(settings: Settings, role: str) -> None:
    async with archive_of(settings) as connections:
        await connections.require_current()
        if not await stop_reading(connections, role):
            raise RolesError(f"{role} is no reader of this archive: `session-bridge readers` lists them")
