"""`session-bridge erase` and `delete`: what nobody may see any more, for good or until it is taken back."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click
from rich.progress import Progress, SpinnerColumn, TextColumn

from session_bridge.archive.deletion import delete_call, deleted_calls, undelete_call
from session_bridge.archive.erasure import Person
from session_bridge.cli.calls import call_sid_argument
from session_bridge.cli.output import console, errors, print_facts, print_json, print_table
from session_bridge.contract.keys import check_call_sid
from session_bridge.errors import UnknownCallError
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings
from session_bridge.upkeep.erasure import Receipt, erase, find


def _call_sids(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(check_call_sid(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("erase")
@click.option("--call", "call_sids", multiple=True, callback=_call_sids, metavar="SID", help="Erase this call.")
@click.option("--number", "numbers", multiple=True, metavar="+…", help="Erase every call with this phone number.")
@click.option("--user", "users", multiple=True, metavar="ID", help="Erase every call of this user id.")
@click.option("--mentions", is_flag=True, help="Also calls in which it only stands in a text; reads everything.")
@click.option("--dry-run", is_flag=True, help="Say which calls it would be, and touch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-vacuum", is_flag=True, help="Leave the dead rows to autovacuum.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def erase_command(
    *,
    call_sids: tuple[str, ...],
    numbers: tuple[str, ...],
    users: tuple[str, ...],
    mentions: bool,
    dry_run: bool,
    yes: bool,
    no_vacuum: bool,
    as_json: bool,
) -> None:
    """Erase one call's or one person's every trace, in the archive and in Redis. There is no way back.

    A number is found in any form, in from_number, to_number, room names, participants and call SIDs. What comes late
    for an erased call is let go and not archived. The receipt, also kept in erasure_receipts, names no personal data.
    """
    if sum(map(bool, (call_sids, numbers, users))) != 1:
        raise click.UsageError("say one of --call, --number and --user; each may be repeated")
    whom = [*map(Person.of_number, numbers), *map(Person.of_user, users)]
    settings = load_settings()
    if dry_run:
        found = sorted({*call_sids, *asyncio.run(_find(settings, whom, mentions=mentions))})
        if as_json:
            print_json({"calls": found})
        else:
            print_table("would be erased", ("call SID",), [(sid,) for sid in found])
        return
    if not yes and not as_json:
        click.confirm("Erase every trace? There is no way back", abort=True)
    receipt = asyncio.run(_erase(settings, call_sids, whom, mentions=mentions, vacuuming=not no_vacuum))
    if as_json:
        print_json(asdict(receipt))
    else:
        _print(receipt)


async def _find(settings: Settings, whom: list[Person], *, mentions: bool) -> set[str]:
    async with open_bridge(settings) as bridge:
        return await find(bridge, whom, mentions=mentions)


async def _erase(
    settings: Settings, call_sids: tuple[str, ...], whom: list[Person], *, mentions: bool, vacuuming: bool
) -> Receipt:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task("looking")

        def show(what: str, calls: int) -> None:
            progress.update(task, description=f"{what}; {calls:,} calls erased")

        async with open_bridge(settings) as bridge:
            asked = {"mentions": mentions, "vacuuming": vacuuming}
            return await erase(bridge, call_sids=call_sids, whom=whom, **asked, progress=show)


def _print(receipt: Receipt) -> None:
    print_facts(
        {
            "receipt": receipt.id,
            "erased at": receipt.erased_at,
            "calls": receipt.calls,
            "chunk texts": receipt.chunk_texts,
        }
    )
    print_table("rows", ("table", "rows"), sorted(receipt.rows.items()))
    print_table("in Redis", ("what", "entries"), sorted(receipt.redis.items()))
    if not receipt.calls:
        console.print("there was nothing to erase")
    elif receipt.vacuumed:
        console.print(
            "vacuumed: indexes hold nothing of it any more; bytes in the tables' files are overwritten as they are "
            "used again, or at once by VACUUM FULL"
        )
    else:
        console.print("not vacuumed: dead rows stay in the tables' files until autovacuum has come by")
    for exported in receipt.exported_months:
        console.print(
            f"out of reach: {exported['month']} was exported to {exported['folder']}; restoring leaves it out"
        )


@click.command("delete")
@click.argument("call_sid", callback=lambda c, p, v: call_sid_argument(c, p, v) if v else None, required=False)
@click.option("--undo", is_flag=True, help="Show the call again.")
@click.option("--reason", help="Why, kept beside it.")
@click.option("--list", "listing", is_flag=True, help="List the calls that are deleted.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def delete_command(*, call_sid: str | None, undo: bool, reason: str | None, listing: bool, as_json: bool) -> None:
    """Hide a call from readers; it can be taken back.

    The call stays whole, and late data joins it. The views visible_call_sessions, visible_call_messages, … leave it
    out, and so do our own commands. What must be gone for good is `session-bridge erase`.
    """
    if listing == (call_sid is not None):
        raise click.UsageError("name a call SID, or say --list")
    if call_sid is None:
        found = asyncio.run(_list())
        if as_json:
            print_json(found)
        else:
            print_table("deleted calls", ("call SID", "since", "reason"), [tuple(row.values()) for row in found])
        return
    asyncio.run(_delete(call_sid, reason, undo=undo))
    console.print(f"{call_sid} is {'shown again' if undo else 'hidden; `session-bridge delete --undo` shows it again'}")


async def _list() -> list[dict[str, object]]:
    async with open_bridge(load_settings()) as bridge:
        found = await deleted_calls(bridge.connections)
    return [{"call_sid": one.call_sid, "deleted_at": one.deleted_at, "reason": one.reason} for one in found]


async def _delete(call_sid: str, reason: str | None, *, undo: bool) -> None:
    async with open_bridge(load_settings()) as bridge:
        if undo:
            if not await undelete_call(bridge.connections, call_sid):
                raise UnknownCallError(f"{call_sid} is not deleted: see `session-bridge delete --list`")
        elif not await delete_call(bridge.connections, call_sid, reason):
            raise UnknownCallError(f"{call_sid} is not archived, or is deleted already: look at its spelling")
