"""Views of older names, in a schema of their own, for queries that were written before the archive was."""

from __future__ import annotations

import psycopg

from session_bridge.archive.connection import ArchiveConnections, fetch
from session_bridge.errors import SchemaError

VIEWS = ("calls", "voice_calls", "voice_messages", "call_logs", "conversations")


async def make_compatibility_views(connections: ArchiveConnections, schema: str) -> None:
    """Make the views, or make them anew where they are ours.

    Raises:
        SchemaError: Something of another's is in the way, or the role may not make them.
    """
    async with connections.transaction() as connection:
        try:
            await fetch(connection, "make_compatibility_views", schema=schema)
        except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateSchema, psycopg.errors.ReservedName) as error:
            raise SchemaError(f"{error.diag.message_primary}: name another schema with --schema") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise SchemaError(
                f"{error.diag.message_primary}: run this as the role that owns the archive, and let it create schemas"
            ) from error


async def drop_compatibility_views(connections: ArchiveConnections, schema: str) -> bool:
    """Take the views away; False if there are none of ours."""
    async with connections.transaction() as connection:
        [[dropped]] = await fetch(connection, "drop_compatibility_views", schema=schema)
        return bool(dropped)
