"""`session-bridge roles`: who may do what with the archive."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from session_bridge.archive.roles import create_roles, protect, roles
from session_bridge.cli.output import console, print_json, print_table
from session_bridge.service import archive_of
from session_bridge.settings import Settings, load_settings


@click.group("roles", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@click.pass_context
def roles_command(context: click.Context, *, as_json: bool) -> None:
    """Show the archive's roles in PostgreSQL, and what stands open that should not.

    The owner migrates and makes months, the writer is for workers, the reader for all others, each of whom
    `session-bridge readers add` tells what to see.
    """
    if context.invoked_subcommand is not None:
        return
    asyncio.run(_show(load_settings(), as_json=as_json))


@roles_command.command("create")
@click.option("--own", is_flag=True, help="Make <prefix>_owner the owner of the archive; in a schema of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print the roles as JSON.")
def create_command(*, own: bool, as_json: bool) -> None:
    """Make the roles where they are missing, and grant each what it needs and nothing else.

    They begin with SESSION_BRIDGE_ROLE_PREFIX and belong to the whole server; none of them can log in. Run it with a
    DATABASE_URL that may make roles and owns the archive. Safe to repeat.
    """
    settings = load_settings()
    told = asyncio.run(_create(settings, own=own))
    if told is not None:
        console.print(told)
    asyncio.run(_show(settings, as_json=as_json))


@roles_command.command("grant")
def grant_command() -> None:
    """Close what is new in the archive, and grant its roles anew, as after `session-bridge compat`."""
    asyncio.run(_protect(load_settings()))
    console.print("granted")


async def _create(settings: Settings, *, own: bool) -> str | None:
    async with archive_of(settings) as connections:
        await connections.require_current()
        return await create_roles(connections, settings.role_prefix, give_ownership=own)


async def _protect(settings: Settings) -> None:
    async with archive_of(settings) as connections:
        await connections.require_current()
        await protect(connections)


async def _show(settings: Settings, *, as_json: bool) -> None:
    async with archive_of(settings) as connections:
        await connections.require_current()
        owner, found, exposed = await roles(connections)
    if as_json:
        shown = {"owner": owner, "roles": [asdict(r) for r in found], "exposed": [asdict(one) for one in exposed]}
        print_json(shown)
        return
    console.print(f"the archive belongs to {owner}")
    if found:
        rows = [(r.name, r.kind, "yes" if r.exists else "no", "yes" if r.above_policies else "no") for r in found]
        print_table("roles", ("role", "is the", "exists", "above row level security"), rows)
    else:
        console.print("no roles yet: `session-bridge roles create` makes them")
    if exposed:
        print_table("open", ("what", "why"), [(one.what, one.problem) for one in exposed])
