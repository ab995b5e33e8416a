"""Who may do what with the archive: its roles, and what each reader sees.

What a role may do is written once, in the SQL functions of migration 0007, where psql reaches it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import psycopg

from session_bridge.archive.connection import ArchiveConnections, fetch
from session_bridge.errors import RolesError

Sees: TypeAlias = Literal["all", "tenant", "user", "participant"]
"""Every call; a tenant's; a user's; or a user's and those the user took part in."""


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the archive; `above_policies` is whether row level security does not bind it."""

    kind: Literal["owner", "writer", "reader"]
    name: str
    exists: bool
    above_policies: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """What a role sees. `tenant_from` and `user_from` are SQL expressions, read in every query."""

    role: str
    sees: Sees
    tenant: str | None = None
    user: str | None = None
    tenant_from: str | None = None
    user_from: str | None = None
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Exposure:
    """Something that stands open and should not."""

    what: str
    problem: str


async def create_roles(connections: ArchiveConnections, prefix: str, *, give_ownership: bool = False) -> str | None:
    """Make `<prefix>_owner`, `<prefix>_writer` and `<prefix>_reader` where they are missing, and grant what they need.

    Returns:
        What could not be done, in words; None if all was.

    Raises:
        RolesError: The role that connects may not do it, or the schema is not the archive's alone.
    """
    async with connections.transaction() as connection:
        with _ours():
            [[told]] = await fetch(connection, "create_roles", prefix=prefix)
            if give_ownership:
                await fetch(connection, "give_archive", owner=f"{prefix}_owner")
                await fetch(connection, "protect_archive")
    return cast("str | None", told)


async def roles(connections: ArchiveConnections) -> tuple[str, list[Role], list[Exposure]]:
    """Who owns the archive, its roles, and what stands open that should not."""
    async with connections.transaction() as connection:
        [[owner]] = await fetch(connection, "archive_owner")
        found = [Role(*row) for row in await fetch(connection, "archive_roles")]
        return owner, found, [Exposure(*row) for row in await fetch(connection, "exposures")]


async def protect(connections: ArchiveConnections) -> None:
    """Close what is new to readers, and grant the archive's roles anew; raises RolesError for who may not."""
    async with connections.transaction() as connection:
        with _ours():
            await fetch(connection, "protect_archive")


async def let_read(connections: ArchiveConnections, reader: Reader) -> None:
    """Let a role read, or change what it reads; raises RolesError if that cannot be."""
    async with connections.transaction() as connection:
        with _ours():
            await fetch(
                connection,
                "let_read",
                reader=reader.role,
                sees=reader.sees,
                tenant=reader.tenant,
                whose=reader.user,
                tenant_from=reader.tenant_from,
                user_from=reader.user_from,
            )


async def stop_reading(connections: ArchiveConnections, role: str) -> bool:
    """Let a role read no more; False if it was not let to."""
    async with connections.transaction() as connection:
        with _ours():
            [[stopped]] = await fetch(connection, "stop_reading", reader=role)
    return bool(stopped)


async def readers(connections: ArchiveConnections) -> list[Reader]:
    """Who reads what."""
    async with connections.transaction() as connection:
        return [Reader(*row) for row in await fetch(connection, "readers")]


@contextmanager
def _ours() -> Iterator[None]:
    """What PostgreSQL refuses here is about rights and names, and the person at the command line can settle it."""
    try:
        yield
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation) as error:
        raise RolesError(
            f"{error.diag.message_primary}: run this with a DATABASE_URL that may make roles and owns the archive"
        ) from error
    except psycopg.errors.CheckViolation as error:
        raise RolesError(
            "a reader sees all, or one tenant's calls, or one user's: name a tenant or a user, and each only once"
        ) from error
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise RolesError(
            f"{error.diag.message_primary}: {error.diag.message_hint or 'look at what was given'}"
        ) from error
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        raise RolesError(f"{error.diag.message_primary}: {error.diag.message_hint}") from error
