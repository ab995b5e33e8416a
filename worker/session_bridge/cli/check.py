"""`session-bridge check`: what the bridge would make of a hash."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click
from rich.text import Text

from session_bridge.archive.tables import CHILDREN
from session_bridge.cli.output import EXIT_ERROR, console, print_facts, print_json, print_table
from session_bridge.contract.keys import check_call_sid
from session_bridge.drain.outcome import load_outcome
from session_bridge.drain.preview import Preview, preview
from session_bridge.errors import BridgeError, UnknownCallError
from session_bridge.live.server import connect
from session_bridge.live.sessions import redis_errors
from session_bridge.redaction import load_redaction
from session_bridge.service import understanding_of
from session_bridge.settings import Settings, load_settings


@click.command("check")
@click.argument("what", metavar="SID|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check_command(*, what: str, as_json: bool) -> None:
    """Say what the bridge would make of a live session, and touch nothing.

    For those who write live sessions from another language: rows by table, rejects with their reasons, the outcome.
    FILE is a JSON object of field names and values, `-` is standard input; a SID is read from REDIS_URL. Exit status
    1 if there are rejects.
    """
    settings = load_settings()
    fields = _read_file(what) if what == "-" or _is_file(what) else asyncio.run(_read_redis(settings, what))
    if redaction := load_redaction(settings.redact):
        fields = redaction.fields(fields)
    understanding, outcome = understanding_of(settings), load_outcome(settings.outcome)
    found = preview(what, fields, understanding, outcome, max_field_bytes=settings.max_field_bytes)
    if as_json:
        _print_json(found)
    else:
        _print(found)
    if found.rejects:
        raise SystemExit(EXIT_ERROR)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a SID may be longer than any file's name
        return False


def _read_file(name: str) -> dict[bytes, bytes]:
    try:
        with click.open_file(name, encoding="utf-8", errors="surrogateescape") as file:
            content = json.load(file)
    except ValueError as error:
        raise BridgeError(f"{name} is not JSON ({error}); write one object of field names and values") from error
    if not isinstance(content, dict):
        raise BridgeError(f"{name} holds a JSON {type(content).__name__}; write one object of field names and values")
    return {
        _raw(field): _raw(value if isinstance(value, str) else json.dumps(value)) for field, value in content.items()
    }


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


async def _read_redis(settings: Settings, call_sid: str) -> dict[bytes, bytes]:
    try:
        check_call_sid(call_sid)
    except ValueError as error:
        raise BridgeError(str(error)) from error
    if settings.redis_url is None:
        raise UnknownCallError(f"{call_sid} is no file here, and REDIS_URL is not set: name a file or set it")
    async with connect(settings.redis_url) as redis, redis_errors():
        key = settings.keys.session(call_sid)
        kind = (await redis.type(key)).decode()
        if kind not in ("hash", "none"):
            raise BridgeError(f"the key {key} holds a {kind}, not a hash: a live session is one hash")
        fields: dict[bytes, bytes] = await redis.hgetall(key)  # type: ignore[misc]  # redis-py's own types
    if not fields:
        raise UnknownCallError(f"there is no hash {settings.keys.session(call_sid)} in this Redis")
    return fields


def _print(found: Preview) -> None:
    print_facts({name: value for name, value in found.session.items() if name not in ("id", "row_counts")})
    print_table(
        "rows", ("table", "rows"), [(table.name, len(found.rows[table])) for table in CHILDREN if found.rows[table]]
    )
    if found.rejects:
        rows = [(reject.field.decode("utf-8", "replace"), reject.reason, reject.error) for reject in found.rejects]
        print_table("rejects", ("field", "reason", "error"), rows)
    else:
        console.print(Text("every field was understood", style="green"))


def _print_json(found: Preview) -> None:
    tables = {
        table.name: [dict(zip(table.columns, row, strict=True)) for row in found.rows[table]] for table in CHILDREN
    }
    rejects = [
        {"field": reject.field, "reason": reject.reason, "error": reject.error, "size_bytes": reject.size_bytes}
        for reject in found.rejects
    ]
    print_json({"session": found.session, "rows": tables, "rejects": rejects})
