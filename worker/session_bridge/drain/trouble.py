"""What becomes of a call that cannot be archived as it is: tried again, buried, withheld, or let go."""

from __future__ import annotations

import asyncio
import hashlib
import random
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import JsonValue

from session_bridge.archive.book import RETIRED, Record, Seen, look_up, new_session_id, note_seen
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.dead import bury
from session_bridge.archive.journal import Entry, enter
from session_bridge.contract.ids import now
from session_bridge.contract.keys import is_call_sid
from session_bridge.drain.values import clean_text
from session_bridge.live.sessions import LiveSessions
from session_bridge.live.snapshot import Claim, Queue, Snapshot

log = structlog.get_logger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0


@dataclass(slots=True)
class DrainCounts:
    """What a drainer has done since it began."""

    archived: int = 0
    checkpointed: int = 0
    merged: int = 0
    rejects: int = 0
    dead: int = 0
    lost: int = 0
    again: int = 0
    retired: int = 0


class Trouble:
    """Ends the claims of calls that cannot be archived. `max_attempts` drains that PostgreSQL refuses are enough."""

    def __init__(
        self, live: LiveSessions, connections: ArchiveConnections, counts: DrainCounts, *, max_attempts: int
    ) -> None:
        self._live = live
        self._connections = connections
        self._counts = counts
        self._max_attempts = max_attempts

    @asynccontextmanager
    async def own_fault(self, snapshot: Snapshot, record: Record | None) -> AsyncIterator[None]:
        """An error that a call provokes in our own code counts as one of its data: the calls beside it go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this call's
            where = f"{type(error).__name__} at {place_of(error)}"
            await self.refused(snapshot, record, f"a bug of the bridge, please report it: {where}")
        # Between two calls the connections beside this one get their turn.
        await asyncio.sleep(0)

    async def withhold(self, snapshot: Snapshot) -> None:
        """Leave a session that could not be redacted in Redis: nothing of it may be kept, and nothing is lost."""
        claim = snapshot.claim
        advice = "mend the function that SESSION_BRIDGE_REDACT names; the call waits in Redis"
        log.error("drain.redaction_failed", call_sid=claim.call_sid, error=snapshot.withheld, advice=advice)
        await self._live.settle(claim, "given", delay_seconds=_LONGEST_DELAY)

    async def let_go(self, snapshot: Snapshot) -> None:
        """Release what came late for a call that retention or an erasure took: nothing of it is kept again."""
        claim = snapshot.claim
        self._counts.retired += 1
        log.info("drain.retired", call_sid=claim.call_sid)
        if snapshot.wrong_type is not None or claim.queue is Queue.CHECKPOINTS:
            # A session that is still written is the sweep's to find, which asks for its drain.
            await self._live.settle(claim, "done")
        elif snapshot.empty:
            await self._live.settle(claim, "empty")
        else:
            await self._live.release([snapshot])

    async def refused(self, snapshot: Snapshot, record: Record | None, error: str) -> None:
        """Have a call drained again after a while, for as long as it has attempts left; then bury it."""
        claim = snapshot.claim
        attempts = await self._live.count_attempt(claim.call_sid)
        if attempts < self._max_attempts:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempts - 1)) * random.uniform(0.5, 1)  # noqa: S311  # spreads retries, hides nothing
            log.warning("drain.refused", call_sid=claim.call_sid, attempt=attempts, error=error, again_in=delay)
            told: dict[str, JsonValue] = {"attempt": attempts, "error": error, "again_in": round(delay, 1)}
            await self._tell(claim, record, "refused", told)
            await self._live.settle(claim, "given", delay_seconds=delay)
        else:
            await self.bury(snapshot, record, "refused", error, now(), attempts=attempts)

    async def _tell(self, claim: Claim, record: Record | None, event: str, detail: dict[str, JsonValue]) -> None:
        """Enter in the journal what happened to a call, and the call in the book if that is the first of it."""
        moment = now()
        if record is None:
            await note_seen(self._connections, [Seen(claim.call_sid, None, None, moment, None)], moment)
            record = (await look_up(self._connections, [claim.call_sid]))[claim.call_sid][0]
        await enter(self._connections, [Entry(record.session_id, moment, event, detail)])

    async def bury(
        self,
        snapshot: Snapshot,
        record: Record | None,
        reason: str,
        error: str,
        moment: datetime,
        *,
        attempts: int = 1,
    ) -> None:
        """Keep a session as dead, raw and whole, and let it go from Redis."""
        claim = snapshot.claim
        if record is not None and record.state == RETIRED:
            await self.let_go(snapshot)
            return
        if snapshot.withheld:
            await self.withhold(snapshot)
            return
        if claim.queue is Queue.CHECKPOINTS:
            # It lives: its end will be asked for, and then it is time to give up on it.
            log.error("drain.checkpoint_failed", call_sid=claim.call_sid, reason=reason, error=error)
            await self._live.settle(claim, "done")
            return
        session_id = record.session_id if record else new_session_id(None, moment)
        dead_id = await bury(
            self._connections,
            call_sid=_storable(claim.call_sid),
            session_id=session_id,
            generation=record.generation if record else 1,
            tenant_id=record.tenant_id if record else None,
            reason=reason,
            error=clean_text(error),
            attempts=max(attempts, claim.times),
            fields=snapshot.fields,
            oversize=snapshot.oversize,
            fetch_fields=lambda names: self._live.oversize_fields(snapshot, names),
            at=moment,
            known=record is not None,
        )
        if dead_id is None:
            await self.let_go(snapshot)
            return
        self._counts.dead += 1
        told: dict[str, JsonValue] = {"dead_id": dead_id, "reason": reason, "error": error, "attempts": attempts}
        await enter(self._connections, [Entry(session_id, moment, "dead", told)])
        log.error(
            "drain.dead",
            call_sid=claim.call_sid,
            reason=reason,
            error=error,
            advice=f"session-bridge dead show {dead_id}",
        )
        if snapshot.wrong_type is not None:
            await self._live.settle(claim, "done")
        elif snapshot.empty:
            await self._live.settle(claim, "empty")
        else:
            await self._live.release([snapshot])


def place_of(error: Exception) -> str:
    """Where in the code an error arose, without its own words: they may quote a call."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def trouble_of(snapshot: Snapshot) -> tuple[str, str] | None:
    """The reason and the error for which a session cannot be archived at all, if there is one."""
    if not is_call_sid(snapshot.claim.call_sid):
        return "call SID", "a call SID is 1 to 255 characters of text"
    if snapshot.wrong_type is not None:
        return "wrong type", f"the key holds a {snapshot.wrong_type}, not a hash; nothing of it was touched"
    return None


def _storable(call_sid: str) -> str:
    """A call SID as the book can hold it; one that has to be changed for that gets a name of its own."""
    if is_call_sid(call_sid):
        return call_sid
    raw = call_sid.encode("utf-8", "surrogateescape")
    shown = raw[:200].decode("utf-8", "backslashreplace").replace("\x00", "\\x00")[:200]
    return f"{shown}~{hashlib.sha256(raw).hexdigest()[:16]}"
