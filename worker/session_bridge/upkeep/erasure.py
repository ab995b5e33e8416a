"""Erasure: every trace of a call or of a person, in both servers, and a receipt that names neither.

The order is what makes it hold. First the tombstone is committed, with the deletion of the rows: from then on no drain
writes the call again. Then a drain that has the call in hand is waited for, and the call goes from Redis. At the end
all is searched once more, for what came in meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import cast

from pydantic import JsonValue
from pydantic_core import to_json

from session_bridge.archive.book import look_up
from session_bridge.archive.connection import ArchiveConnections, fetch
from session_bridge.archive.erasure import (
    PERSON_FIELDS,
    Asked,
    Erased,
    Person,
    calls_of_person,
    calls_that_mention,
    erase_account,
    erase_calls,
    erase_unused_contents,
    vacuum,
)
from session_bridge.errors import ArchiveUnavailableError, UnknownCallError
from session_bridge.live.erasure import Forgetting
from session_bridge.live.server import connect
from session_bridge.service import Bridge, upkeep_of

_CALLS_AT_ONCE = 50
_ROUNDS = 5
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0

Progress = Callable[[str, int], None]
"""Told what is being done, and how much of it is done."""


@dataclass(slots=True)
class Receipt:
    """What an erasure did. Nothing in it tells whom it was about."""

    id: str = ""
    erased_at: datetime | None = None
    asked_by: Asked = "call"
    calls: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    chunk_texts: int = 0
    redis: dict[str, int] = field(default_factory=dict)
    vacuumed: list[str] = field(default_factory=list)
    exported_months: list[dict[str, str]] = field(default_factory=list)
    """Months that retention wrote to files before: those are out of an erasure's reach."""


async def find(bridge: Bridge, whom: Sequence[Person], *, mentions: bool = False) -> set[str]:
    """The call SIDs, in both servers, in which these people are parties; or are so much as mentioned."""
    async with _opened(bridge) as (connections, forgetting):
        return await _find(connections, forgetting, whom, mentions=mentions)


async def erase(
    bridge: Bridge,
    *,
    call_sids: Sequence[str] = (),
    whom: Sequence[Person] = (),
    mentions: bool = False,
    vacuuming: bool = True,
    progress: Progress = lambda _what, _done: None,
) -> Receipt:
    """Erase these calls, and every call in which these people are parties; with `mentions`, or are mentioned.

    Raises UnknownCallError for a call SID that neither server knows.
    """
    receipt = Receipt(asked_by=whom[0].asked_by if whom else "call")
    erased, from_redis = Erased(), Counter[str]()
    async with _opened(bridge) as (connections, forgetting):
        await _require_known(bridge, forgetting, call_sids)
        wanted = set(call_sids)
        for _ in range(_ROUNDS):
            progress("looking", erased.calls)
            wanted |= await _find(connections, forgetting, whom, mentions=mentions)
            if not wanted:
                break
            sids = sorted(wanted)
            for start in range(0, len(sids), _CALLS_AT_ONCE):
                some = sids[start : start + _CALLS_AT_ONCE]
                await erase_calls(connections, some, erased)
                await _wait_for_drains(forgetting, some, bridge.settings.lease_seconds)
                from_redis += await forgetting.forget(some)
                progress("erasing", erased.calls)
            wanted.clear()
        for person in whom:
            if person.user_id is not None:
                tenants = await erase_account(connections, person.user_id, erased)
                from_redis += await forgetting.forget_user(person.user_id, tenants)
        progress("chunk texts", erased.calls)
        receipt.chunk_texts = await _erase_contents(connections, erased)
        if vacuuming and erased.calls:
            progress("vacuum", erased.calls)
            tables = [*erased.rows, "rag_chunk_contents", "dead_session_fields"]
            receipt.vacuumed = await vacuum(connections, bridge.settings.db_schema, tables, erased.months)
        receipt.calls = erased.calls
        receipt.rows = {table: count for table, count in sorted(erased.rows.items()) if count}
        receipt.redis = {kind: count for kind, count in from_redis.items() if count}
        await _keep(connections, receipt)
    return receipt


@asynccontextmanager
async def _opened(bridge: Bridge) -> AsyncIterator[tuple[ArchiveConnections, Forgetting]]:
    async with upkeep_of(bridge.settings) as connections, connect(bridge.queue_redis_url) as queue:
        yield connections, Forgetting(bridge.redis, queue, bridge.keys)


async def _find(
    connections: ArchiveConnections, forgetting: Forgetting, whom: Sequence[Person], *, mentions: bool
) -> set[str]:
    found: set[str] = set()
    for person in whom:
        if mentions:
            found |= await forgetting.calls_of(person.mention)
            found |= await calls_that_mention(connections, person)
        # Redis first: what is drained in between is in the archive when that is looked through.
        found |= await forgetting.calls_of(person.pattern, PERSON_FIELDS)
        found |= await calls_of_person(connections, person)
    return found


async def _require_known(bridge: Bridge, forgetting: Forgetting, call_sids: Sequence[str]) -> None:
    known = await look_up(bridge.connections, call_sids)
    for sid in call_sids:
        if sid not in known and not await forgetting.knows(sid):
            raise UnknownCallError(f"{sid} is neither live nor archived: look at its spelling")


async def _wait_for_drains(forgetting: Forgetting, call_sids: Sequence[str], lease_seconds: float) -> None:
    """Wait until no worker has one of these calls in hand: what it counts of it must not come after the erasure."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(lease_seconds):
            while await forgetting.in_hand(call_sids):  # noqa: ASYNC110  # a server is asked, which sets no event
                await asyncio.sleep(_POLL_SECONDS)


async def _erase_contents(connections: ArchiveConnections, erased: Erased) -> int:
    gone = 0
    for month, keys in groupby(sorted(erased.chunk_keys), key=lambda key: key[0]):
        wanted = list(keys)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while (count := await erase_unused_contents(connections, month, wanted)) is None:  # noqa: ASYNC110  # as above
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as error:
            raise ArchiveUnavailableError(
                f"the calls are erased, but the chunk texts of {month:%Y-%m} are not: that table has been in use for "
                "ten minutes; end the transaction that holds it and erase the call again"
            ) from error
        gone += count
    return gone


async def _keep(connections: ArchiveConnections, receipt: Receipt) -> None:
    said: dict[str, JsonValue] = {
        "calls": receipt.calls,
        "rows": cast("dict[str, JsonValue]", receipt.rows),
        "chunk_texts": receipt.chunk_texts,
        "redis": cast("dict[str, JsonValue]", receipt.redis),
    }
    async with connections.transaction() as connection:
        exported = await fetch(connection, "exported_months")
        receipt.exported_months = [{"month": f"{month:%Y-%m}", "folder": folder} for month, folder in exported]
        kept = await fetch(connection, "keep_receipt", asked_by=receipt.asked_by, receipt=to_json(said).decode())
        [[receipt_id, erased_at]] = kept
    receipt.id, receipt.erased_at = str(receipt_id), erased_at
