"""What all checks share: what they look at, and what they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import psycopg
from psycopg import sql

from session_bridge.archive.connection import ArchiveConnections, Connection
from session_bridge.archive.sql import load
from session_bridge.errors import BridgeError, TransactionTimeoutError
from session_bridge.service import Bridge
from session_bridge.settings import Settings

STATEMENTS = load("session_bridge.verify")
# A role that row level security lets see only a part is refused, and does not find that part to be all.
_SNAPSHOT = b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL row_security = off"
_NAMED = 3


class Outcome(StrEnum):
    """What a check came to."""

    PASS = "PASS"  # noqa: S105  # an outcome, and no password
    FAIL = "FAIL"
    SKIP = "SKIP"
    """There was nothing to look at, or no way to; `found` says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check found, and, where it fails, what to do."""

    outcome: Outcome
    found: str
    do: str = ""


def passed(found: str) -> Answer:
    """It is as it should be."""
    return Answer(Outcome.PASS, found)


def failed(found: str, do: str) -> Answer:
    """It is not."""
    return Answer(Outcome.FAIL, found, do)


def skipped(found: str) -> Answer:
    """It was not looked at."""
    return Answer(Outcome.SKIP, found)


@dataclass(frozen=True, slots=True)
class Line:
    """The outcome of one check; `id` is for programs and never changes."""

    id: str
    title: str
    outcome: Outcome
    found: str
    do: str


@dataclass(frozen=True, slots=True)
class Subject:
    """The archive that is looked at.

    `bridge` has both servers, its Redis perhaps unreachable: `no_redis` says why. `sample` is how many calls are made
    again from their rows; None is every one.
    """

    settings: Settings
    connections: ArchiveConnections
    bridge: Bridge
    no_redis: str | None
    sample: int | None

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reading]:
        """A transaction that sees one moment of the archive and can write nothing."""
        async with self.connections.transaction() as connection:
            await connection.execute(_SNAPSHOT)
            yield Reading(connection)


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment of the archive."""

    connection: Connection

    async def ask(self, name: str, /, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a named statement."""
        return await (await self.connection.execute(STATEMENTS[name], parameters or None)).fetchall()

    async def ask_of(
        self, name: str, /, *, parts: Mapping[str, sql.Composable], **given: object
    ) -> list[tuple[Any, ...]]:
        """The rows of a named statement, of a table that `parts` names."""
        statement = sql.SQL(STATEMENTS[name].decode()).format(**parts)
        return await (await self.connection.execute(statement, given or None)).fetchall()


@dataclass(frozen=True, slots=True)
class Check:
    """One question to an archive."""

    id: str
    title: str
    examine: Callable[[Subject], Awaitable[Answer]]


async def make(check: Check, subject: Subject) -> Line:
    """Make one check. What cannot be looked at is said, and stops no other."""
    try:
        answer = await check.examine(subject)
    except BridgeError as error:
        answer = why_not(error)
    return line(check.id, check.title, answer)


def line(check: str, title: str, answer: Answer) -> Line:
    """A check's answer under its name."""
    return Line(check, title, answer.outcome, answer.found, answer.do)


def why_not(error: BridgeError) -> Answer:
    """Why a check could not be made."""
    if isinstance(error, TransactionTimeoutError):
        return skipped("it took longer than a transaction of this command may")
    cause = error.__cause__
    if isinstance(cause, psycopg.Error) and cause.diag.message_primary:
        return skipped(f"it could not be looked at: {cause.diag.message_primary}")
    return skipped(f"it could not be looked at: {error}")


def some(names: Sequence[str]) -> str:
    """A few of these names, and how many more there are."""
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED:,} more"
