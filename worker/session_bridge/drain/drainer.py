"""The drain of a batch of calls: read, understand, shape, write, release.

How a call is kept from an older reading: before anything is read from Redis, the book is asked how many drains of the
call were committed; when the call is written, under the lock of its row, that number must still be the same. So
between the reading and the writing no other drain came in, and every drain works as if it ran alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import structlog

from session_bridge.archive.book import RETIRED, Record, look_up, not_released
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.journal import Entry, enter
from session_bridge.archive.reader import read_back
from session_bridge.archive.writer import batch_of, write
from session_bridge.contract.ids import now
from session_bridge.contract.keys import is_call_sid
from session_bridge.drain.company import Company
from session_bridge.drain.money import Money
from session_bridge.drain.prepare import DrainRules, Prepared, Reading, prepare, read
from session_bridge.drain.trouble import DrainCounts, Trouble, trouble_of
from session_bridge.errors import (
    ArchiveUnavailableError,
    DataRefusedError,
    LockedError,
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
        self.counts = DrainCounts()
        self._trouble = Trouble(live, connections, self.counts, max_attempts=rules.max_attempts)
        self._money = money
        self._live = live
        self._connections = connections
        self._rules = rules
        self._writing = asyncio.Semaphore(concurrency)
        self._company = Company()
        self._owed: list[Claim] = []

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
        for group in in_groups(claims):
            async with self._live.reading(group):
                await self._drain_read(group, book)

    async def _drain_read(self, snapshots: Sequence[Snapshot], book: dict[str, list[Record]]) -> None:
        moment = now()
        prepared: list[Prepared] = []
        merging: list[tuple[Reading, Record]] = []
        for snapshot in snapshots:
            records = book.get(snapshot.claim.call_sid, [])
            if snapshot.withheld:
                await self._trouble.withhold(snapshot)
            elif trouble := trouble_of(snapshot):
                await self._trouble.bury(snapshot, _latest(records), *trouble, moment)
            elif snapshot.empty and not _is_missing(snapshot, records):
                await self._live.settle(snapshot.claim, "empty" if snapshot.claim.queue is Queue.READY else "done")
            else:
                async with self._trouble.own_fault(snapshot, _latest(records)):
                    reading = await _beside(snapshot, read, self._rules, snapshot, records)
                    if reading.record is not None and reading.record.state == RETIRED:
                        await self._trouble.let_go(snapshot)
                    elif reading.record is not None and reading.record.drains:
                        merging.append((reading, reading.record))
                    else:
                        prepared.append(await _beside(snapshot, prepare, self._rules, reading, None, moment))
        if merging:
            archived = await read_back(self._connections, [record.session_id for _, record in merging])
            for reading, record in merging:
                async with self._trouble.own_fault(reading.snapshot, record):
                    kept = archived.get(record.session_id)
                    prepared.append(await _beside(reading.snapshot, prepare, self._rules, reading, kept, moment))
        if prepared:
            await self._write(prepared)

    async def _drain_suspect(self, claim: Claim) -> None:
        if claim.was_alone:
            book = await look_up(self._connections, [claim.call_sid])
            snapshot = Snapshot(claim)
            error = f"the worker died or ran out of time with it {claim.times - 1} times, the last time with it alone"
            # Perhaps it is its size that killed the worker: a huge one is buried without being held whole.
            async with self._live.reading([snapshot], outline=snapshot.huge):
                await self._trouble.bury(snapshot, _latest(book.get(claim.call_sid, [])), "fatal", error, now())
            return
        async with self._company.alone():
            if await self._live.note_alone(claim):
                log.warning("drain.alone", call_sid=claim.call_sid, claims=claim.times)
                try:
                    await self._drain_batch([claim])
                except LockedError as error:
                    # It is not to blame. Nor may it keep the others waiting for it again and again.
                    log.warning("drain.locked", call_sid=claim.call_sid, reason=str(error))
                    await self._live.settle(claim, "given", delay_seconds=2 * self._rules.lease_seconds)

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
                await self._trouble.refused(prepared[0].snapshot, prepared[0].record, str(error))
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
                how = "done"
                if one.snapshot.given_up:
                    how = "lives"
                    log.info("drain.goes_on", call_sid=one.snapshot.claim.call_sid)
                await self._live.settle(one.snapshot.claim, how)
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


async def _beside(
    snapshot: Snapshot, work: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
) -> _Result:
    """Do `work` of a call; for a huge one in a thread, so that leases are renewed and other calls go on beside it."""
    if snapshot.whole:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


def _is_missing(snapshot: Snapshot, records: Sequence[Record]) -> bool:
    """Whether an empty session is one that nothing was archived of: then it is lost, and that is said."""
    if snapshot.claim.queue is Queue.CHECKPOINTS:
        return False
    return not records or records[0].state in ("live", "checkpointed")


def _latest(records: Sequence[Record]) -> Record | None:
    return records[0] if records else None
