"""`session-bridge dead`: sessions that could not be archived."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from session_bridge.archive.dead import DeadSession, dead_fields, list_dead, mark_retried
from session_bridge.cli.output import console, print_facts, print_json, print_table
from session_bridge.contract.fields import FinalizedBy
from session_bridge.errors import UnknownCallError
from session_bridge.live.sessions import redis_errors
from session_bridge.recorder import request_drain
from session_bridge.service import Bridge, open_bridge
from session_bridge.settings import load_settings

_FIELDS_AT_ONCE = 200
_SHOWN_BYTES = 200


@click.group("dead")
def dead_command() -> None:
    """List, show and retry dead sessions: whole calls that could not be archived after all attempts.

    Nothing of them is lost: every field is kept raw in dead_sessions.
    """


@dead_command.command("list")
@click.option("--all", "retried", is_flag=True, help="Also those that were retried.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Show at most this many.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_command(*, retried: bool, limit: int, as_json: bool) -> None:
    """List dead sessions, the latest first."""

    async def read() -> list[DeadSession]:
        async with open_bridge(load_settings()) as bridge:
            return await list_dead(bridge.connections, retried=retried, limit=limit)

    found = asyncio.run(read())
    if as_json:
        print_json([asdict(dead) for dead in found])
    elif found:
        columns = ("id", "call SID", "reason", "error", "attempts", "fields", "bytes", "died")
        rows = [(d.id, d.call_sid, d.reason, d.error, d.attempts, d.fields, d.size_bytes, d.died_at) for d in found]
        print_table("dead sessions", columns, rows)
        console.print("`session-bridge dead show ID` shows one, `session-bridge dead retry ID` gives it back")
    else:
        console.print("no dead sessions")


@dead_command.command("show")
@click.argument("dead_id", type=int, metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON, with every byte.")
def show_dead_command(*, dead_id: int, as_json: bool) -> None:
    """Show a dead session and its raw fields."""

    async def read() -> tuple[DeadSession, list[tuple[bytes, bytes]]]:
        async with open_bridge(load_settings()) as bridge:
            dead = await _find(bridge, dead_id)
            return dead, [field async for field in dead_fields(bridge.connections, dead.id)]

    dead, fields = asyncio.run(read())
    if as_json:
        print_json(asdict(dead) | {"raw": [{"field": name, "value": value} for name, value in fields]})
        return
    print_facts(asdict(dead))
    rows = [(_readable(name), len(value), _readable(value)) for name, value in fields]
    print_table("fields", ("field", "bytes", "value"), rows)


@dead_command.command("retry")
@click.argument("dead_ids", type=int, nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="Retry every dead session.")
def retry_command(*, dead_ids: tuple[int, ...], everything: bool) -> None:
    """Give dead sessions back to Redis and ask for their drain: the cause was mended.

    A field that was written meanwhile is newer and stays as it is.
    """
    if not dead_ids and not everything:
        raise click.UsageError("name the sessions to retry by ID, or say --all")
    count = asyncio.run(_retry(dead_ids))
    console.print(f"{count} given back; a worker drains them now")


async def _retry(dead_ids: tuple[int, ...]) -> int:
    async with open_bridge(load_settings()) as bridge:
        count = 0
        while found := (
            [await _find(bridge, dead_id) for dead_id in dead_ids] if dead_ids else await list_dead(bridge.connections)
        ):
            for dead in found:
                await _give_back(bridge, dead)
                count += 1
            if dead_ids:
                break
        return count


async def _find(bridge: Bridge, dead_id: int) -> DeadSession:
    found = await list_dead(bridge.connections, dead_id=dead_id, retried=True)
    if not found:
        raise UnknownCallError(f"there is no dead session {dead_id}: see `session-bridge dead list --all`")
    return found[0]


async def _give_back(bridge: Bridge, dead: DeadSession) -> None:
    key = bridge.keys.session(dead.call_sid)
    pipeline = bridge.redis.pipeline(transaction=False)
    async with redis_errors():
        async for name, value in dead_fields(bridge.connections, dead.id):
            pipeline.execute_command("HSETNX", key, name, value)
            if len(pipeline) >= _FIELDS_AT_ONCE:
                await pipeline.execute()
        if len(pipeline):
            await pipeline.execute()
        await bridge.live.forget_attempts(dead.call_sid)
        # The book first: the drain may follow at once.
        await mark_retried(bridge.connections, dead)
        await request_drain(bridge.redis, dead.call_sid, reason="retry", by=FinalizedBy.COMMAND, keys=bridge.keys)


def _readable(raw: bytes) -> str:
    shown = raw[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return shown if len(raw) <= _SHOWN_BYTES else f"{shown}…"
