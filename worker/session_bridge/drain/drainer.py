"""The drain of a batch of calls: read, understand, shape, write, release.

How a call is kept from an older reading: before anything is read from Redis, the book is asked how many drains of the
call were committed; when the call is written, under the lock of its row, that number must still be the same. So
between the reading and the writing no other drain came in, and every drain works as if it ran alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from session_bridge.archive.book import Drained, Record, look_up, new_session_id, not_released
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.archive.dead import bury
from session_bridge.archive.reader import ArchivedCall, read_back
from session_bridge.archive.writer import RejectedField, WritableCall, reject_digest, write
from session_bridge.contract.fields import Family
from session_bridge.contract.ids import now
from session_bridge.contract.keys import is_call_sid
from session_bridge.contract.vocabulary import Status
from session_bridge.drain.archived import call_of
from session_bridge.drain.call import Call, Reject
from session_bridge.drain.combine import combine
from session_bridge.drain.outcome import CallFacts, OutcomeFunction, default_outcome
from session_bridge.drain.shape import Identity, shape
from session_bridge.drain.understand import Understanding
from session_bridge.drain.values import clean_text
from session_bridge.errors import (
    ArchiveUnavailableError,
    DataRefusedError,
    RedisUnavailableError,
    TransactionTimeoutError,
)
from session_bridge.live.sessions import Claim, LiveSessions, Queue, Release, Snapshot

log = structlog.get_logger(__name__)

# After so many claims without an outcome a call is drained alone; if that has none either, it is dead.
_SUSPICIOUS = 3
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class DrainRules:
    """The settings of a drain."""

    understanding: Understanding = field(default_factory=Understanding)
    outcome: OutcomeFunction = default_outcome
    lease_seconds: float = 30
    max_attempts: int = 8


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


@dataclass(slots=True)
class _Prepared:
    """A call ready to be written, with what it was read from."""

    snapshot: Snapshot
    writable: WritableCall
    ended: bool


class Drainer:
    """Drains claimed calls into the archive.

    `writing` limits how many transactions run at once; understanding the next batch goes on beside them.
    """

    def __init__(
        self, live: LiveSessions, connections: ArchiveConnections, rules: DrainRules, *, concurrency: int = 1
    ) -> None:
        self._live = live
        self._connections = connections
        self._rules = rules
        self._writing = asyncio.Semaphore(concurrency)
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
                usual = [claim for claim in claims if claim.times <= _SUSPICIOUS]
                if usual:
                    await self._drain_batch(usual)
                for claim in claims:
                    if claim.times > _SUSPICIOUS:
                        await self._drain_alone(claim)
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
            with contextlib.suppress(RedisUnavailableError):
                await self._give_back(claims)
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
            await self._live.settle(self._owed[-1], "given")
            self._owed.pop()

    @asynccontextmanager
    async def _kept(self, claims: Sequence[Claim]) -> AsyncIterator[None]:
        """Renew the leases of `claims` for as long as the block runs."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._rules.lease_seconds / 3)
                with contextlib.suppress(RedisUnavailableError):
                    await self._live.renew(claims, self._rules.lease_seconds)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # -- one batch --------------------------------------------------------------------------------------------------

    async def _drain_batch(self, claims: Sequence[Claim]) -> None:
        nameable: list[Claim] = []
        unnameable: list[Claim] = []
        for claim in claims:
            (nameable if is_call_sid(claim.call_sid) else unnameable).append(claim)
        book = await look_up(self._connections, [claim.call_sid for claim in nameable])
        snapshots = await self._live.read([*nameable, *unnameable])
        moment = now()
        readings: list[_Reading] = []
        for snapshot in snapshots:
            sid = snapshot.claim.call_sid
            if not is_call_sid(sid):
                await self._bury(snapshot, None, "call SID", "a call SID is text of at most 255 characters", moment)
            elif snapshot.wrong_type is not None:
                error = f"the key holds a {snapshot.wrong_type}, not a hash; nothing of it was touched"
                await self._bury(snapshot, _latest(book.get(sid)), "wrong type", error, moment)
            elif snapshot.empty and not _is_missing(snapshot, book.get(sid)):
                await self._live.settle(snapshot.claim, "empty" if snapshot.claim.queue is Queue.READY else "done")
            else:
                readings.append(self._understand(snapshot, book.get(sid, [])))
            await asyncio.sleep(0)
        merging = [reading.record.session_id for reading in readings if reading.record and reading.record.drains]
        archived = await read_back(self._connections, merging) if merging else {}
        prepared = []
        for reading in readings:
            prepared.append(self._prepare(reading, archived, moment))
            # Between two calls the connections beside this one get their turn.
            await asyncio.sleep(0)
        if prepared:
            await self._write(prepared)

    async def _drain_alone(self, claim: Claim) -> None:
        if claim.times == _SUSPICIOUS + 1:
            log.warning("drain.alone", call_sid=claim.call_sid, claims=claim.times)
            await self._drain_batch([claim])
            return
        book = await look_up(self._connections, [claim.call_sid])
        [snapshot] = await self._live.read([claim])
        error = f"the worker died or ran out of time with it {claim.times - 1} times, the last time with it alone"
        await self._bury(snapshot, _latest(book.get(claim.call_sid)), "fatal", error, now())

    def _understand(self, snapshot: Snapshot, records: list[Record]) -> _Reading:
        call = self._rules.understanding.call(snapshot.claim.call_sid, snapshot.fields, snapshot.oversize)
        if snapshot.empty:
            call.state["status"] = Status.LOST
            call.state["status_by"] = "inferred"
        record, generation = _which(records, call)
        if record is not None and record.tenant_id is not None:
            given = call.state.get("tenant_id")
            if given is not None and given != record.tenant_id:
                raw = snapshot.fields[b"tenant_id"]
                error = "another tenant than the one this call belongs to"
                call.rejects.append(Reject(b"tenant_id", raw, len(raw), "tenant conflict", error))
            call.state["tenant_id"] = record.tenant_id
        return _Reading(snapshot, call, record, generation)

    def _prepare(self, reading: _Reading, archived: dict[str, ArchivedCall], moment: datetime) -> _Prepared:
        snapshot, record = reading.snapshot, reading.record
        kept = archived.get(record.session_id) if record else None
        call = combine(call_of(kept) if kept else None, reading.call, requested=snapshot.claim.queue is Queue.READY)
        tenant_id = call.state.get("tenant_id")
        known = kept.rejects if kept else {}
        rejects = [reject for reject in call.rejects if _digest(reject) not in known]
        call.rejects = rejects
        started_at = call.state.get("started_at")
        started_at = started_at if isinstance(started_at, datetime) else None
        identity = Identity(
            session_id=record.session_id if record else new_session_id(started_at, moment),
            generation=reading.generation,
            tenant_id=tenant_id if isinstance(tenant_id, str) else None,
            drains=(record.drains if record else 0) + 1,
            first_archived_at=kept.session["first_archived_at"] if kept else moment,
            archived_at=moment,
            rejects=sum(not cleaned for cleaned in known.values()),
        )
        shaped = shape(call, identity, self._rules.understanding, self._decide_outcome)
        session = shaped.session
        ended = snapshot.claim.queue is Queue.READY
        state = "lost" if session["status"] == Status.LOST else "archived" if ended else "checkpointed"
        book = Drained(
            call_sid=call.call_sid,
            generation=reading.generation,
            session_id=identity.session_id,
            tenant_id=identity.tenant_id,
            state=state,
            status=str(session["status"]),
            started_at=started_at,
            ended_at=_datetime(session["ended_at"]),
            last_activity_at=_datetime(session["last_activity_at"]),
            at=moment,
            expected_drains=record.drains if record else None,
        )
        writable = WritableCall(
            book,
            shaped.session_row,
            shaped.rows,
            shaped.texts,
            shaped.chunk_contents,
            [RejectedField(r.field, r.raw, r.size_bytes, r.reason, r.error) for r in rejects],
            merge=kept is not None,
            drop_history=bool(kept and call.history and call.of(Family.MESSAGE)),
        )
        return _Prepared(snapshot, writable, ended)

    def _decide_outcome(self, facts: CallFacts) -> str | None:
        try:
            return self._rules.outcome(facts)
        except Exception:
            # The user's own function: a bug in it must not keep a call from the archive.
            log.exception("drain.outcome_failed", advice="look at the function SESSION_BRIDGE_OUTCOME names")
            return None

    # -- writing ----------------------------------------------------------------------------------------------------

    async def _write(self, prepared: Sequence[_Prepared]) -> None:
        """Write and release; a batch that PostgreSQL refuses for its data is halved until the culprit is alone."""
        by_sid = {one.snapshot.claim.call_sid: one for one in prepared}

        async def fetch_field(call_sid: str, name: bytes) -> bytes:
            return await self._live.oversize_field(by_sid[call_sid].snapshot, name)

        try:
            async with self._writing:
                written = await write(self._connections, [one.writable for one in prepared], fetch_field)
        except DataRefusedError as error:
            if len(prepared) == 1:
                await self._refused(prepared[0], error)
                return
            middle = len(prepared) // 2
            await self._write(prepared[:middle])
            await self._write(prepared[middle:])
            return
        for one in prepared:
            if one.snapshot.claim.call_sid not in written:
                self.counts.again += 1
                await self._live.settle(one.snapshot.claim, "given")
        await self._release([one for one in prepared if one.snapshot.claim.call_sid in written])

    async def _release(self, written: Sequence[_Prepared]) -> None:
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
        outcomes = await self._live.release(held)
        alive = []
        for snapshot, outcome in zip(held, outcomes, strict=True):
            if outcome is not Release.RELEASED:
                log.info("drain.not_released", call_sid=snapshot.claim.call_sid, why=outcome)
            if outcome is Release.WITHDRAWN:
                alive.append(snapshot.claim.call_sid)
        if alive:
            await not_released(self._connections, alive)

    def _count(self, one: _Prepared) -> None:
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

    async def _refused(self, one: _Prepared, error: DataRefusedError) -> None:
        claim = one.snapshot.claim
        attempts = await self._live.count_attempt(claim.call_sid)
        if attempts < self._rules.max_attempts:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (attempts - 1)) * random.uniform(0.5, 1)  # noqa: S311  # spreads retries, hides nothing
            log.warning("drain.refused", call_sid=claim.call_sid, attempt=attempts, error=str(error), again_in=delay)
            await self._live.settle(claim, "given", delay_seconds=delay)
            return
        book = one.writable.book
        record = Record(
            book.call_sid, book.generation, book.session_id, book.tenant_id, book.state, 0, None, None, book.at, None
        )
        await self._bury(one.snapshot, record, "refused", str(error), book.at, attempts=attempts)

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
        if claim.queue is Queue.CHECKPOINTS:
            # It lives: its end will be asked for, and then it is time to give up on it.
            log.error("drain.checkpoint_failed", call_sid=claim.call_sid, reason=reason, error=error)
            await self._live.settle(claim, "done")
            return
        dead_id = await bury(
            self._connections,
            call_sid=_storable(claim.call_sid),
            session_id=record.session_id if record else new_session_id(None, moment),
            generation=record.generation if record else 1,
            tenant_id=record.tenant_id if record else None,
            reason=reason,
            error=clean_text(error),
            attempts=max(attempts, claim.times),
            fields=snapshot.fields,
            oversize=snapshot.oversize,
            fetch_field=lambda _, name: self._live.oversize_field(snapshot, name),
            at=moment,
        )
        self.counts.dead += 1
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


@dataclass(slots=True)
class _Reading:
    """A live session as it was understood, and the record it belongs to (None for a new one)."""

    snapshot: Snapshot
    call: Call
    record: Record | None
    generation: int


def _which(records: list[Record], call: Call) -> tuple[Record | None, int]:
    """The record that a reading belongs to, and its generation: the same SID may name a later call."""
    if not records:
        return None, 1
    started_at = call.state.get("started_at")
    if not isinstance(started_at, datetime):
        return records[0], records[0].generation
    latest = records[0]
    if latest.state in ("archived", "dead") and latest.ended_at is not None and started_at > latest.ended_at:
        return None, latest.generation + 1
    for record in records:
        if record.started_at is None or started_at >= record.started_at:
            return record, record.generation
    return records[-1], records[-1].generation


def _is_missing(snapshot: Snapshot, records: list[Record] | None) -> bool:
    """Whether an empty session is one that nothing was archived of: then it is lost, and that is said."""
    if snapshot.claim.queue is Queue.CHECKPOINTS:
        return False
    return not records or records[0].state in ("live", "checkpointed")


def _latest(records: list[Record] | None) -> Record | None:
    return records[0] if records else None


def _digest(reject: Reject) -> bytes:
    return reject_digest(reject.field, reject.raw or b"")


def _storable(call_sid: str) -> str:
    """A call SID as a text column can hold it."""
    return call_sid.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")[:255]


def _datetime(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
