"""What of one call, or of one person, the archive holds, and how it is made to forget it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal, TypeAlias, cast
from uuid import UUID, uuid4

from psycopg import sql

from session_bridge.archive.book import new_session_id, session_time
from session_bridge.archive.connection import SHORT_WAIT, ArchiveConnections, Connection, fetch, run
from session_bridge.contract.ids import now
from session_bridge.errors import LockedError, UnknownCallError

Asked: TypeAlias = Literal["call", "number", "user"]
ChunkKey: TypeAlias = tuple[date, str, bytes]
"""The key of a chunk's text: month, tenant and hash."""

PERSON_FIELDS = ("from_number", "to_number", "user_id", "room_name", "parent_call_sid")
"""State fields that may name a person; participants' events do so as well."""

_FEWEST_DIGITS = 6
_BETWEEN = r"(?:[ ()./-]|\(0\))*"


@dataclass(frozen=True, slots=True)
class Person:
    """Whom an erasure is about: by phone number or by user id.

    `pattern` is a regular expression, for both servers, of fields that name a person; `mention` is one of any text.
    """

    asked_by: Asked
    pattern: str
    mention: str
    user_id: str | None = None

    @classmethod
    def of_number(cls, number: str) -> Person:
        """The person of a phone number in any usual form: with + or 00 or neither, with spaces, brackets or dashes.

        Raises UnknownCallError if that is no phone number.
        """
        digits = re.sub(r"\(0\)|\D", "", number)
        if not number.lstrip().startswith("+"):
            digits = digits.removeprefix("00")
        if len(digits) < _FEWEST_DIGITS:
            raise UnknownCallError(
                f"a phone number has at least {_FEWEST_DIGITS} digits: write it with its country code, like +15550100"
            )
        pattern = rf"(^|[^0-9])(00{_BETWEEN})?{_BETWEEN.join(digits)}($|[^0-9])"
        return cls("number", pattern, pattern)

    @classmethod
    def of_user(cls, user_id: str) -> Person:
        """The person of a user id, exactly as it is in the calls."""
        if not user_id.strip():
            raise UnknownCallError("a user id is not empty")
        # As a column's whole value, or as a text within JSON.
        name = re.escape(user_id)
        return cls("user", rf'(^|"){name}("|$)', rf"(^|[^\w.@-]){name}($|[^\w.@-])", user_id)


@dataclass(slots=True)
class Erased:
    """What was erased: rows by table, calls, and what the calls may have been the last to use."""

    calls: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    months: set[date] = field(default_factory=set)
    chunk_keys: set[ChunkKey] = field(default_factory=set)


async def calls_of_person(connections: ArchiveConnections, person: Person) -> set[str]:
    """The call SIDs, as the archive has them, in which this person is a party."""
    async with connections.transaction() as connection:
        rows = await fetch(connection, "calls_of_person", pattern=person.pattern, fields=list(PERSON_FIELDS))
    return {cast("str", row[0]) for row in rows}


async def calls_that_mention(connections: ArchiveConnections, person: Person) -> set[str]:
    """The call SIDs of which any row, of any table, holds the number or the id. It reads the whole archive."""
    found: set[str] = set()
    async with connections.transaction() as connection:
        for table, key in await fetch(connection, "call_tables"):
            mentions = sql.SQL(
                "SELECT DISTINCT book.call_sid FROM {} AS row JOIN call_sids AS book ON book.session_id = row.{} "
                "WHERE row::text ~ %s"
            ).format(sql.Identifier(table), sql.Identifier(key))
            rows = await (await connection.execute(mentions, [person.mention])).fetchall()
            found.update(cast("str", row[0]) for row in rows)
        rows = await fetch(connection, "mentions_in_raw", pattern=person.mention)
    return found | {cast("str", row[0]) for row in rows}


async def erase_account(connections: ArchiveConnections, user_id: str, erased: Erased) -> set[str]:
    """Take a user's name out of the books of credits, and the budgets away; the tenants that may have told of them."""
    alias = f"erased:{uuid4()}"
    tenants = {""}
    async with connections.transaction() as connection:
        for name, table in (
            ("anonymize_entries", "credit_transactions"),
            ("anonymize_balances", "user_credits"),
        ):
            rows = await fetch(connection, name, user_id=user_id, alias=alias)
            erased.rows[table] += len(rows)
            tenants |= {cast("str", row[0]) for row in rows}
        rows = await fetch(connection, "erase_budgets", user_id=user_id)
        erased.rows["user_budget_settings"] += len(rows)
        return tenants | {cast("str", row[0]) for row in rows + await fetch(connection, "tenants")}


async def erase_calls(connections: ArchiveConnections, call_sids: Sequence[str], erased: Erased) -> None:
    """Erase every row of these calls and put tombstones in the book, in one transaction; `erased` adds it up.

    A drain of one of them that is under way is waited for, and its rows go too; one that comes later finds the stone.
    """
    sids = sorted(call_sids)
    ids = [new_session_id(None, now()) for _ in sids]
    async with connections.transaction() as connection:
        await run(connection, "reserve_erased", call_sids=sids, session_ids=ids)
        locked = await fetch(connection, "lock_erased", call_sids=sids)
        sessions = {cast("UUID", row[0]) for row in locked + await fetch(connection, "sessions_of", call_sids=sids)}
        found = list(sessions)
        erased.chunk_keys.update(
            (month, tenant, bytes(digest))
            for month, tenant, digest in await fetch(connection, "chunk_keys_of", session_ids=found)
        )
        for table, key in await fetch(connection, "call_tables"):
            delete = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(sql.Identifier(table), sql.Identifier(key))
            erased.rows[table] += (await connection.execute(delete, [found])).rowcount
        erased.rows["dead_sessions"] += await run(connection, "erase_dead", call_sids=sids)
        [[entombed]] = await fetch(connection, "entomb_erased", session_ids=found)
        erased.rows["call_sids"] += entombed
        await run(connection, "mark_stones_erased", call_sids=sids)
    erased.calls += len(sids)
    erased.months |= {session_time(str(session)).date().replace(day=1) for session in sessions}


async def erase_unused_contents(connections: ArchiveConnections, month: date, keys: Sequence[ChunkKey]) -> int | None:
    """Erase those of these chunk texts of one month that no call uses any more; None if that month is in use.

    Most texts are shared, and looking for that stops nobody. What seems unused is looked at once more while drains of
    that month wait: one of them may have found the text there a moment ago, and not have brought its own.
    """
    wanted = {"tenant_ids": [tenant for _, tenant, _ in keys], "hashes": [digest for _, _, digest in keys]}
    async with connections.transaction() as connection:
        seem_unused = await fetch(connection, "unused_contents", month=month, **wanted)
    if not seem_unused:
        return 0
    try:
        async with connections.transaction() as connection:
            await _stop_writers(connection, month)
            unused = await fetch(connection, "unused_contents", month=month, **_columns(seem_unused))
            return await run(connection, "drop_contents", month=month, **_columns(unused))
    except LockedError:
        return None


def _columns(keys: Sequence[tuple[str, bytes]]) -> dict[str, object]:
    return {"tenant_ids": [tenant for tenant, _ in keys], "hashes": [bytes(digest) for _, digest in keys]}


async def _stop_writers(connection: Connection, month: date) -> None:
    partition = f"call_rag_chunks_y{month:%Y}m{month:%m}"
    row = await (await connection.execute("SELECT to_regclass(%s) IS NULL", [partition])).fetchone()
    name = "call_rag_chunks_default" if row and row[0] else partition
    await connection.execute(SHORT_WAIT)
    lock = sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(sql.Identifier(name))
    await connection.execute(lock)


async def vacuum(connections: ArchiveConnections, schema: str, tables: Sequence[str], months: set[date]) -> list[str]:
    """Have PostgreSQL clear out the dead rows of these tables, of those with months only these; which they were.

    A table that this role may not vacuum is left to autovacuum.
    """
    wanted = [f"{table}_y{month:%Y}m{month:%m}" for table in tables for month in sorted(months)] + list(tables)
    done: list[str] = []
    async with connections.plain() as connection:
        cursor = await connection.execute(
            "SELECT relname FROM pg_class WHERE relname = ANY (%s) AND relkind = 'r' "
            "AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) "
            "AND pg_has_role(relowner, 'USAGE') ORDER BY relname",
            [wanted, schema],
        )
        for (name,) in await cursor.fetchall():
            await connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(schema, name)))
            done.append(name)
    return done
