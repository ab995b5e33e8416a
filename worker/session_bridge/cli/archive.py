"""`session-bridge migrate`, `compat` and `adopt`: the archive itself."""

from __future__ import annotations

import asyncio

import click

from session_bridge.archive.compatibility import VIEWS, drop_compatibility_views, make_compatibility_views
from session_bridge.archive.migrations import migrate, script
from session_bridge.cli.output import console, print_json
from session_bridge.live.server import claim_archive
from session_bridge.service import addresses, archive_of, open_bridge
from session_bridge.settings import Settings, load_settings


@click.command("migrate")
@click.option("--to", type=click.IntRange(0), help="Go up or down to this version; 0 takes everything away.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it; no server is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def migrate_command(*, to: int | None, as_sql: bool, as_json: bool) -> None:
    """Make the archive's tables, or bring them up to date.

    Safe to run twice, and by two at once. Each version is one transaction; a change that fails leaves the one before.
    """
    settings = load_settings()
    if as_sql:
        click.echo(script(to, settings.db_schema))
        return
    applied = migrate(addresses(settings)[1], settings.db_schema, to)
    if as_json:
        print_json([{"migration": str(step.migration), "direction": step.direction} for step in applied])
        return
    for step in applied:
        console.print(f"{step.direction:>4}  {step.migration}")
    if not applied:
        console.print("nothing to do: the archive is up to date")


@click.command("adopt")
def adopt_command() -> None:
    """Bind the sessions in this Redis to this archive.

    A namespace drains into one archive only, and a worker with another refuses to start. Run this after the archive
    was moved or restored on purpose.
    """
    settings = load_settings()
    asyncio.run(_adopt(settings))


async def _adopt(settings: Settings) -> None:
    async with open_bridge(settings, check=False) as bridge:
        await bridge.connections.require_current()
        identity = await bridge.connections.identity()
        await claim_archive(bridge.redis, bridge.keys, identity, adopt=True)
    console.print(f"{settings.namespace}:* drains into archive {identity} from now on")


@click.command("compat")
@click.option("--schema", default="compat", show_default=True, help="The schema they are made in; created if need be.")
@click.option("--drop", is_flag=True, help="Take them away.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def compat_command(*, schema: str, drop: bool, as_json: bool) -> None:
    """Make views of older names, for queries that were written before the archive was.

    They are calls, voice_calls, voice_messages, call_logs and conversations, with columns like full_transcript. Safe to
    repeat. They stand beside the archive in a schema of their own, and `migrate` down takes them away with it.
    """
    done = asyncio.run(_compat(load_settings(), schema, drop=drop))
    if as_json:
        print_json({"schema": schema, "views": list(VIEWS), "done": done, "action": "drop" if drop else "make"})
    elif drop:
        console.print(f"dropped from {schema}" if done else f"there are none of ours in {schema}")
    else:
        console.print(f"made in {schema}: {', '.join(VIEWS)}")


async def _compat(settings: Settings, schema: str, *, drop: bool) -> bool:
    async with archive_of(settings) as connections:
        await connections.require_current()
        if drop:
            return await drop_compatibility_views(connections, schema)
        await make_compatibility_views(connections, schema)
    return True
