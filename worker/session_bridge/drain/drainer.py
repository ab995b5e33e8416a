"""The drain of a batch of calls: read, understand, shape, write, release.

How a call is kept from an older reading: before anything is read from Redis, the book is asked how many drains of the
call were committed; when the call is written, under the lock of its row, that number must still be the same. So
between the reading and the writing no other drain came in, and every drain works as if it ran alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog
from pydantic import JsonValue

from session_bridge.archive.book import RETIRED, Record, Seen, look_up, new_session_id, not_released, note_seen
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.dead import bury
from session_bridge.archive.journal import Entry, enter
from session_bridge.archive.reader import read_back
from session_bridge.archive.writer import batch_of, write
from session_bridge.contract.ids import now
from session_bridge.contract.keys import is_call_sid
from session_bridge.drain.company import Company
from session_bridge.drain.money import Money
from session_bridge.drain.prepare import DrainRules, Prepared, Reading, prepare, read
from session_bridge.drain.values import clean_text
from session_bridge.errors import (
    ArchiveUnavailableError,
    DataRefusedError,
    RedisUnavailableError,
    TransactionTimeoutError,
)
from session_bridge.live.sessions import LiveSessions
from session_bridge.live.snapshot import Claim, Queue, Release, Snapshot, in_groups

log = structlog.get_logger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# After so many claims without an outcome a call is suspicious, and drained alone. Only one that has no outcome even
# then is dead: in company it may have been another's fault.
_SUSPICIOUS = 3
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


class Drainer:
    """Drains claimed calls into the archive.

    `writing` limits how many transactions run at once; understanding the next batch goes on beside them.
    """

    def __init__(
        self,
        live: LiveSessions,
        connections: ArchiveConnections,
        rules: DrainRules,
        money: Money | None = None,
        *,
        concurrency: int = 1,
    ) -> None:
        self._money = money
        self._live = live
        self._connections = connections
        self._rules = rules
        self._writing = asyncio.Semaphore(concurrency)
        self._company = Company()
        self._owed: list[Claim] = []
        self.counts = DrainCounts()

    async def drain(self, claims: Sequence[Claim]) -> None:
        """Drain `claims` and end each of them, one way or another.

        Raises ArchiveUnavailableError or RedisUnavailableError when a server cannot serve; the claims are then given
        back, no attempt is counted, and nothing is lost.
        """
        try:
            await self._pay_debts()
            async with self._kept(claims):
                if usual := [claim for claim in claims if claim.times <= _SUSPICIOUS]:
                    async with self._company.beside_others():
                        await self._drain_batch(usual)
                for suspect in claims:
                    if suspect.times > _SUSPICIOUS:
                        await self._drain_suspect(suspect)
        except ArchiveUnavailableError:
            await self._give_back(claims, delay_seconds=1)
            raise
        except TransactionTimeoutError as error:
            log.warning("drain.timed_out", calls=len(claims), reason=str(error))
            for claim in claims:
                await self._live.settle(claim, "later", delay_seconds=1)
        except RedisUnavailableError:
            self._owed += claims
            raise
        except asyncio.CancelledError:
            # In a task of its own: in one that was cancelled, Python before 3.11.3 ends every wait with a time limit.
            await asyncio.create_task(self._give_back(claims))
            raise

    async def try_archive(self) -> None:
        """Raise ArchiveUnavailableError if the archive does not answer."""
        await look_up(self._connections, [])

    async def _give_back(self, claims: Sequence[Claim], *, delay_seconds: float = 0) -> None:
        for claim in claims:
            try:
                await self._live.settle(claim, "given", delay_seconds=delay_seconds)
            except RedisUnavailableError:
                self._owed.append(claim)

    async def _pay_debts(self) -> None:
        """End the claims that Redis' absence kept us from ending: it was no call's fault."""
        while self._owed:
            # Taken first: a batch beside this one pays too.
            claim = self._owed.pop()
            try:
                await self._live.settle(claim, "given")
            except RedisUnavailableError:
                self._owed.append(claim)
                raise

    @asynccontextmanager
    async def _kept(self, claims: Sequence[Claim]) -> AsyncIterator[None]:
        """Renew the leases of `claims` for as long as the block runs."""
        over = asyncio.Event()

        async def renew() -> None:
            # A cancellation that comes while an answer of Redis is awaited may get lost on its way here.
            while not over.is_set():
                await asyncio.sleep(self._rules.lease_seconds / 3)
                with contextlib.suppress(RedisUnavailableError):
                    await self._live.renew(claims, self._rules.lease_seconds)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            over.set()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # -- one batch --------------------------------------------------------------------------------------------------

    async def _drain_batch(self, claims: Sequence[Claim]) -> None:
        named = [claim for claim in claims if is_call_sid(claim.call_sid)]
        if self._money:
            await self._money.refresh()
        book = await look_up(self._connections, [claim.call_sid for claim in named])
        for group in in_groups(await self._live.weigh(claims)):
            await self._live.read(group)
            await self._drain_read(group, book)

    async def _drain_read(self, snapshots: Sequence[Snapshot], book: dict[str, list[Record]]) -> None:
        moment = now()
        prepared: list[Prepared] = []
        merging: list[tuple[Reading, Record]] = []
        for snapshot in snapshots:
            records = book.get(snapshot.claim.call_sid, [])
            if snapshot.withheld:
                await self._withhold(snapshot)
            elif trouble := _trouble(snapshot):
                await self._bury(snapshot, _latest(records), *trouble, moment)
            elif snapshot.empty and not _is_missing(snapshot, records):
                await self._live.settle(snapshot.claim, "empty" if snapshot.claim.queue is Queue.READY else "done")
            else:
                async with self._own_fault(snapshot, _latest(records)):
                    reading = await _beside(snapshot, read, self._rules, snapshot, records)
                    if reading.record is not None and reading.record.state == RETIRED:
                        await self._let_go(snapshot)
                    elif reading.record is not None and reading.record.drains:
                        merging.append((reading, reading.record))
                    else:
                        prepared.append(await _beside(snapshot, prepare, self._rules, reading, None, moment))
        if merging:
            archived = await read_back(self._connections, [record.session_id for _, record in merging])
            for reading, record in merging:
                async with self._own_fault(reading.snapshot, record):
                    kept = archived.get(record.session_id)
                    prepared.append(await _beside(reading.snapshot, prepare, self._rules, reading, kept, moment))
        if prepared:
            await self._write(prepared)

    async def _withhold(self, snapshot: Snapshot) -> None:
        """Leave a session that could not be redacted in Redis: nothing of it may be kept, and nothing is lost."""
        claim = snapshot.claim
        advice = "mend the function that SESSION_BRIDGE_REDACT names; the call waits in Redis"
        log.error("drain.redaction_failed", call_sid=claim.call_sid, error=snapshot.withheld, advice=advice)
        await self._live.settle(claim, "given", delay_seconds=_LONGEST_DELAY)

    async def _let_go(self, snapshot: Snapshot) -> None:
        """Release what came late for a call that retention or an erasure took: nothing of it is kept again."""
        claim = snapshot.claim
        self.counts.retired += 1
        log.info("drain.retired", call_sid=claim.call_sid)
        if snapshot.wrong_type is not None or claim.queue is Queue.CHECKPOINTS:
            # A session that is still written is the sweep's to find, which asks for its drain.
            await self._live.settle(claim, "done")
        elif snapshot.empty:
            await self._live.settle(claim, "empty")
        else:
            await self._live.release([snapshot])

    @asynccontextmanager
    async def _own_fault(self, snapshot: Snapshot, record: Record | None) -> AsyncIterator[None]:
        """An error that a call provokes in our own code counts as one of its data: the calls beside it go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, it is this call's
            where = f"{type(error).__name__} at {place_of(error)}"
            await self._refused(snapshot, record, f"a bug of the bridge, please report it: {where}")
        # Between two calls the connections beside this one get their turn.
        await asyncio.sleep(0)

    async def _drain_suspect(self, claim: Claim) -> None:
        if claim.was_alone:
            book = await look_up(self._connections, [claim.call_sid])
            [snapshot] = await self._live.weigh([claim])
            if snapshot.huge:
                # Perhaps it is its size that killed the worker: it is buried without being held whole.
                await self._live.outline(snapshot)
            else:
                await self._live.read([snapshot])
            error = f"the worker died or ran out of time with it {claim.times - 1} times, the last time with it alone"
            await self._bury(snapshot, _latest(book.get(claim.call_sid, [])), "fatal", error, now())
            return
        async with self._company.alone():
            if await self._live.note_alone(claim):
                log.warning("drain.alone", call_sid=claim.call_sid, claims=claim.times)
                await self._drain_batch([claim])

    # -- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, prepared: Sequence[Prepared]) -> None:
        """Write and release; a batch that PostgreSQL refuses for its data is halved until the culprit is alone."""
        by_sid = {one.snapshot.claim.call_sid: one for one in prepared}

        async def fetch_field(call_sid: str, name: bytes) -> bytes:
            return await self._live.oversize_field(by_sid[call_sid].snapshot, name)

        settlement = self._money.settlement() if self._money else None
        settle = settlement.settle if settlement else None
        batch = batch_of([one.writable for one in prepared])
        try:
            async with self._writing:
                written = await write(self._connections, batch, fetch_field, settle)
        except DataRefusedError as error:
            if len(prepared) == 1:
                await self._refused(prepared[0].snapshot, prepared[0].record, str(error))
                return
            middle = len(prepared) // 2
            await self._write(prepared[:middle])
            await self._write(prepared[middle:])
            return
        for one in prepared:
            if one.snapshot.claim.call_sid not in written:
                self.counts.again += 1
                await self._live.settle(one.snapshot.claim, "given")
        done = [one for one in prepared if one.snapshot.claim.call_sid in written]
        if self._money and settlement:
            await self._money.committed(settlement, [one.writable.charge for one in done if one.writable.charge])
        await self._release(done)

    async def _release(self, written: Sequence[Prepared]) -> None:
        for one in written:
            self._count(one)
        for one in written:
            if not one.ended:
                await self._live.settle(one.snapshot.claim, "done")
            elif one.snapshot.empty:
                await self._live.settle(one.snapshot.claim, "empty")
        held = [one.snapshot for one in written if one.ended and not one.snapshot.empty]
        if not held:
            return
        outcomes = zip(held, await self._live.release(held), strict=True)
        kept = {one.claim.call_sid: outcome for one, outcome in outcomes if outcome is not Release.RELEASED}
        for sid, outcome in kept.items():
            log.info("drain.not_released", call_sid=sid, why=outcome)
        if kept:
            books = {one.writable.book.call_sid: one.writable.book for one in written}
            moment = now()
            entries = [Entry(books[sid].session_id, moment, "not_released", {"why": why}) for sid, why in kept.items()]
            await enter(self._connections, entries)
        if alive := [sid for sid, outcome in kept.items() if outcome is Release.WITHDRAWN]:
            await not_released(self._connections, [books[sid] for sid in alive])
            # What was archived calls it ended. A checkpoint corrects that now, not at the next sweep.
            await self._live.request_checkpoints(alive)

    def _count(self, one: Prepared) -> None:
        counts, book = self.counts, one.writable.book
        if book.state == "lost":
            counts.lost += 1
            log.error("drain.lost", call_sid=book.call_sid, advice="its session was gone before it was drained")
        elif not one.ended:
            counts.checkpointed += 1
        elif one.writable.merge:
            counts.merged += 1
        else:
            counts.archived += 1
        for reject in one.writable.rejects:
            counts.rejects += 1
            log.warning("drain.reject", call_sid=book.call_sid, reason=reject.reason, size_bytes=reject.size_bytes)

    # -- when the data is at fault ----------------------------------------------------------------------------------

    async def _refused(self, snapshot: Snapshot, record: Record | None, error: str) -> None:
        claim = snapshot.claim
        attempts = await self._live.count_attempt(claim.call_sid)
        if attempts < self._rules.max_attempts:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempts - 1)) * random.uniform(0.5, 1)  # noqa: S311  # spreads retries, hides nothing
            log.warning("drain.refused", call_sid=claim.call_sid, attempt=attempts, error=error, again_in=delay)
            told: dict[str, JsonValue] = {"attempt": attempts, "error": error, "again_in": round(delay, 1)}
            await self._tell(claim, record, "refused", told)
            await self._live.settle(claim, "given", delay_seconds=delay)
        else:
            await self._bury(snapshot, record, "refused", error, now(), attempts=attempts)

    async def _tell(self, claim: Claim, record: Record | None, event: str, detail: dict[str, JsonValue]) -> None:
        """Enter in the journal what happened to a call, and the call in the book if that is the first of it."""
        moment = now()
        if record is None:
            await note_seen(self._connections, [Seen(claim.call_sid, None, None, moment, None)], moment)
            record = (await look_up(self._connections, [claim.call_sid]))[claim.call_sid][0]
        await enter(self._connections, [Entry(record.session_id, moment, event, detail)])

    async def _bury(
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
            await self._let_go(snapshot)
            return
        if snapshot.withheld:
            await self._withhold(snapshot)
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
            await self._let_go(snapshot)
            return
        self.counts.dead += 1
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


async def _beside(
    snapshot: Snapshot, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Do `work` of a call; for a huge one in a thread, so that leases are renewed and other calls go on beside it."""
    if snapshot.whole:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


def place_of(error: Exception) -> str:
    """Where in the code an error arose, without its own words: they may quote a call."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _trouble(snapshot: Snapshot) -> tuple[str, str] | None:
    """The reason and the error for which a session cannot be archived at all, if there is one."""
    if not is_call_sid(snapshot.claim.call_sid):
        return "call SID", "a call SID is 1 to 255 characters of text"
    if snapshot.wrong_type is not None:
        return "wrong type", f"the key holds a {snapshot.wrong_type}, not a hash; nothing of it was touched"
    return None


def _is_missing(snapshot: Snapshot, records: Sequence[Record]) -> bool:
    """Whether an empty session is one that nothing was archived of: then it is lost, and that is said."""
    if snapshot.claim.queue is Queue.CHECKPOINTS:
        return False
    return not records or records[0].state in ("live", "checkpointed")


def _latest(records: Sequence[Record]) -> Record | None:
    return records[0] if records else None


def _storable(call_sid: str) -> str:
    """A call SID as the book can hold it; one that has to be changed for that gets a name of its own."""
    if is_call_sid(call_sid):
        return call_sid
    raw = call_sid.encode("utf-8", "surrogateescape")
    shown = raw[:200].decode("utf-8", "backslashreplace").replace("\x00", "\\x00")[:200]
    return f"{shown}~{hashlib.sha256(raw).hexdigest()[:16]}"
