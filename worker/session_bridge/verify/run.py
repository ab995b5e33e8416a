"""One verification of an archive, from the first check to the last."""

from __future__ import annotations

from collections.abc import Callable

from session_bridge.archive.connection import ArchiveConnections
from session_bridge.errors import RedisUnavailableError, UnsupportedServerError
from session_bridge.live.server import require_usable
from session_bridge.service import addresses, open_bridge
from session_bridge.settings import Settings, without_password
from session_bridge.verify.book import BOOK_CHECKS
from session_bridge.verify.calls import look_through
from session_bridge.verify.checks import Line, Subject, make
from session_bridge.verify.lookups import LOOKUP_CHECKS
from session_bridge.verify.structure import STRUCTURE_CHECKS

SAMPLE = 1_000
_TRANSACTION_SECONDS = 300.0


async def verify(
    settings: Settings, sample: int | None = SAMPLE, progress: Callable[[int, int], None] = lambda _looked, _of: None
) -> list[Line]:
    """Make every check. Nothing is written, neither in PostgreSQL nor in Redis.

    `sample` is how many calls are made again from their rows; None is every one. Raises SettingsError if there are no
    addresses and ArchiveUnavailableError if PostgreSQL does not answer; without Redis what concerns it is skipped.
    """
    redis_url, database_url = addresses(settings)
    connections = ArchiveConnections(
        database_url, schema=settings.db_schema, size=1, transaction_seconds=_TRANSACTION_SECONDS
    )
    async with open_bridge(settings, check=False) as bridge, connections:
        async with connections.plain():
            pass
        no_redis = None
        try:
            await require_usable(bridge.redis, without_password(redis_url))
        except (RedisUnavailableError, UnsupportedServerError) as error:
            no_redis = str(error)
        subject = Subject(settings, connections, bridge, no_redis, sample)
        lines = [await make(check, subject) for check in STRUCTURE_CHECKS]
        lines += [await make(check, subject) for check in BOOK_CHECKS]
        lines += await look_through(subject, progress)
        lines += [await make(check, subject) for check in LOOKUP_CHECKS]
    return lines
