"""From a live session that was read to a call ready to be written: understood, joined to its archive, and shaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import JsonValue

from session_bridge.archive.book import RETIRED, Drained, Record, new_session_id
from session_bridge.archive.journal import Entry
from session_bridge.archive.reader import READ_BACK, ArchivedCall
from session_bridge.archive.tables import Row, Table
from session_bridge.archive.writer import RejectedField, WritableCall, reject_digest
from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, Status, status_of
from session_bridge.drain.archived import News, call_of, news_of
from session_bridge.drain.call import Call, Reject
from session_bridge.drain.combine import combine, lives
from session_bridge.drain.money import MoneyRules, charge_of
from session_bridge.drain.outcome import CallFacts, OutcomeFunction, default_outcome
from session_bridge.drain.shape import Identity, ShapedCall, shape
from session_bridge.drain.understand import Understanding
from session_bridge.live.snapshot import GIVEN_UP, Queue, Snapshot

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DrainRules:
    """The settings of a drain."""

    understanding: Understanding = field(default_factory=Understanding)
    outcome: OutcomeFunction = default_outcome
    lease_seconds: float = 30
    max_attempts: int = 8
    abandon_seconds: float = 3600
    money: MoneyRules = field(default_factory=MoneyRules)


@dataclass(slots=True)
class Reading:
    """A live session as it was understood, and the record it belongs to (None for a new one)."""

    snapshot: Snapshot
    call: Call
    record: Record | None
    generation: int


@dataclass(slots=True)
class Prepared:
    """A call ready to be written, with what it was read from.

    `ended` is false for a checkpoint, and for a call that was given up for its silence and goes on.
    """

    snapshot: Snapshot
    record: Record | None
    writable: WritableCall
    ended: bool


def read(rules: DrainRules, snapshot: Snapshot, records: Sequence[Record]) -> Reading:
    """What a live session says, and which of its call's records it belongs to."""
    call = rules.understanding.call(snapshot.claim.call_sid, snapshot.fields, snapshot.oversize)
    record, generation = _which(records, call)
    if snapshot.empty:
        call.state |= {"status": Status.LOST, "status_by": "inferred"}
        if record is not None:
            call.extra["last_seen_at"] = record.last_seen_at.astimezone(UTC).isoformat()
            if record.started_at is not None:
                call.state["started_at"] = record.started_at
    if record is not None and record.tenant_id is not None:
        given = call.state.get("tenant_id")
        if given is not None and given != record.tenant_id:
            raw = snapshot.fields[b"tenant_id"]
            error = "another tenant than the one this call belongs to"
            call.rejects.append(Reject(b"tenant_id", raw, len(raw), "tenant conflict", error))
        call.state["tenant_id"] = record.tenant_id
    return Reading(snapshot, call, record, generation)


def prepare(rules: DrainRules, reading: Reading, kept: ArchivedCall | None, moment: datetime) -> Prepared:
    """The rows of a call: of what was read, joined to `kept`, what is archived of it already."""
    snapshot, record = reading.snapshot, reading.record
    archived = call_of(kept) if kept else None
    goes_on = snapshot.given_up and _goes_on(rules, reading.call, archived, moment)
    if goes_on or (archived is not None and "finalize_reason" in archived.state and snapshot.given_up):
        # Why an archived call was finalized is known, and the sweep's reason for draining what came late is another.
        for name in GIVEN_UP:
            reading.call.state.pop(name.decode(), None)
    ended = snapshot.claim.queue is Queue.READY and not goes_on
    over = ended or _is_over(record, kept)
    call = combine(archived, reading.call, requested=over, zone=rules.understanding.zone)
    told = kept.rejects if kept else {}
    # What was refused before, and was written anew since.
    understood = snapshot.fields.keys() - {reject.field for reject in call.rejects}
    call.rejects = [reject for reject in call.rejects if reject_digest(reject.field, reject.raw or b"") not in told]
    started_at, tenant_id = _datetime(call.state.get("started_at")), call.state.get("tenant_id")
    identity = Identity(
        session_id=record.session_id if record else new_session_id(started_at, moment),
        generation=reading.generation,
        tenant_id=tenant_id if isinstance(tenant_id, str) else None,
        drains=(record.drains if record else 0) + 1,
        first_archived_at=kept.session["first_archived_at"] if kept else moment,
        archived_at=moment,
        rejects=sum(not cleaned and name not in understood for name, cleaned in told.values()),
    )
    shaped = shape(call, identity, rules.understanding, _guarded(rules.outcome), rules.money.rates)
    session = shaped.session
    book = Drained(
        call_sid=call.call_sid,
        generation=identity.generation,
        session_id=identity.session_id,
        tenant_id=identity.tenant_id,
        state="lost" if session["status"] == Status.LOST else "archived" if over else "checkpointed",
        status=str(session["status"]),
        started_at=started_at,
        ended_at=_datetime(session["ended_at"]),
        last_activity_at=_datetime(session["last_activity_at"]),
        at=moment,
        expected_drains=record.drains if record else None,
    )
    what = "merged" if kept and book.state == "archived" else book.state
    journal = Entry(identity.session_id, moment, what, _told(call, shaped, snapshot, identity))
    news = _news(shaped.rows, kept) if kept else {}
    writable = WritableCall(
        book,
        journal,
        shaped.session_row,
        {table: news[table].new for table in news} if kept else shaped.rows,
        shaped.chunk_contents,
        [RejectedField(r.field, r.raw, r.size_bytes, r.reason, r.error) for r in call.rejects],
        merge=kept is not None,
        changed={table: news[table].changed for table in news},
        gone={table: news[table].gone for table in news if news[table].gone},
        size_bytes=snapshot.claim.size_bytes,
        drop_history=bool(kept and call.history and call.of(Family.MESSAGE)),
        charge=charge_of(shaped, ended=book.state == "archived") if rules.money.charges else None,
    )
    return Prepared(snapshot, record, writable, ended)


def _news(shaped: Mapping[Table, list[Row]], kept: ArchivedCall) -> dict[Table, News]:
    """What is new of a call that is archived already."""
    return {
        table: news_of(table, rows, kept.of(table)) if table in READ_BACK else News([], rows)
        for table, rows in shaped.items()
    }


def _is_over(record: Record | None, kept: ArchivedCall | None) -> bool:
    """Whether a checkpoint is of a call that has ended, also if that was only concluded from a request.

    It may come between the commit of the call's drain and its release, and be committed when the session is gone: then
    it must not make the call live again. A request that is taken back is noted in the book before a checkpoint.
    """
    return record is not None and record.state == "archived" and kept is not None and kept.session["status"] in TERMINAL


def _goes_on(rules: DrainRules, call: Call, archived: Call | None, moment: datetime) -> bool:
    """Whether a call that the sweep gave up for its silence has shown meanwhile that it lives."""
    status = call.state.get("status")
    if "ended_at" in call.state or (isinstance(status, str) and status_of(status) in TERMINAL):
        return False
    silence = timedelta(seconds=rules.abandon_seconds)
    active = _datetime(call.state.get("last_activity_at"))
    if active is not None and timedelta() <= moment - active <= silence:
        return True
    spoken = [datetime.fromisoformat(message.timestamp) for message in call.of(Family.MESSAGE) if message.timestamp]
    speaks = any(timedelta() <= moment - at <= silence for at in spoken)
    if archived is None:
        return speaks
    # What is archived was there when the silence began, whatever its writer's clock said.
    return lives(archived, call) and (speaks or archived.state.get("status") in PROVISIONAL)


def _told(call: Call, shaped: ShapedCall, snapshot: Snapshot, identity: Identity) -> dict[str, JsonValue]:
    """What the journal says of a drain."""
    claim = snapshot.claim
    asked = claim.due_ms.is_integer()
    told: dict[str, JsonValue] = {
        "drain": identity.drains,
        "status": str(shaped.session["status"]),
        "rows": sum(map(len, shaped.rows.values())),
        ("due" if asked else "lease_ran_out"): datetime.fromtimestamp(claim.due_ms / 1000, UTC).isoformat(),
    }
    for name in ("finalize_reason", "finalized_by"):
        if name in call.state:
            told[name] = str(call.state[name])
    if call.rejects:
        told["rejects"] = len(call.rejects)
    if claim.times > 1:
        told["claims_without_outcome"] = claim.times - 1
    return told


def _guarded(outcome: OutcomeFunction) -> OutcomeFunction:
    """The user's own function, of which a bug must not keep a call from the archive."""

    def decide(facts: CallFacts) -> str | None:
        try:
            return outcome(facts)
        except Exception as error:  # noqa: BLE001  # whatever it raises
            advice = "look at the function that SESSION_BRIDGE_OUTCOME names"
            log.error("drain.outcome_failed", error=type(error).__name__, advice=advice)  # noqa: TRY400  # a traceback may quote the call
            return None

    return decide


def _which(records: Sequence[Record], call: Call) -> tuple[Record | None, int]:
    """The record that a reading belongs to, and its generation: the same SID may name a later call."""
    if not records:
        return None, 1
    started_at = call.state.get("started_at")
    if not isinstance(started_at, datetime):
        return records[0], records[0].generation
    latest = records[0]
    if latest.state in ("archived", "dead", RETIRED) and latest.ended_at is not None and started_at > latest.ended_at:
        return None, latest.generation + 1
    for record in records:
        if record.started_at is None or started_at >= record.started_at:
            return record, record.generation
    return records[-1], records[-1].generation


def _datetime(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None
