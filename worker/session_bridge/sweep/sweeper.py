"""One sweep: a part of the way through the keys, and what it found there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import ceil

import structlog

from session_bridge.archive.book import Seen, Sighting, not_seen_since, note_seen, sightings
from session_bridge.archive.connection import ArchiveConnections
from session_bridge.contract.ids import now
from session_bridge.contract.keys import is_call_sid
from session_bridge.contract.vocabulary import PROVISIONAL, EndReason, Status
from session_bridge.errors import ArchiveUnavailableError, TransactionTimeoutError
from session_bridge.live.scan import Look, SessionScan
from session_bridge.sweep.inquiry import Inquiry, Suspect
from session_bridge.sweep.rules import LATE_DATA, Action, Decision, SweepRules

log = structlog.get_logger(__name__)

# Looked at in one go: drains that run in the same loop wait no longer than this takes.
_SESSIONS_AT_ONCE = 200
# More than a sweep could ask about; those past it are held, and met again in the next round.
_MOST_SUSPECTS = 10_000
# Of the minute that its job may take: an archive that is away may take half of that to say so, and then sessions are to
# be held yet.
_LONGEST_SECONDS = 40
_ABANDON = Decision(Action.RESCUE, EndReason.ABANDONED)


@dataclass(slots=True)
class SweepReport:
    """What a sweep did, or would do.

    `found` counts the reasons for what was done, `left` the sessions that its limit kept it from, `asked` the
    answers of providers that were asked whether a silent call lives.
    """

    sessions: int = 0
    foreign: int = 0
    held: int = 0
    rescued: int = 0
    checkpoints: int = 0
    missing: int = 0
    left: int = 0
    round_complete: bool = False
    round_seconds: float | None = None
    archive_away: bool = False
    found: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    decisions: list[tuple[str, Decision]] = field(default_factory=list)


class Sweeper:
    """Sweeps. Safe to repeat, and to run in several processes at once."""

    def __init__(self, scan: SessionScan, connections: ArchiveConnections, rules: SweepRules, inquiry: Inquiry) -> None:
        self._scan = scan
        self._connections = connections
        self._rules = rules
        self._inquiry = inquiry

    async def sweep(
        self,
        *,
        limit: int,
        keys: int | None = None,
        dry_run: bool = False,
        progress: Callable[[SweepReport], None] = lambda _: None,
    ) -> SweepReport:
        """Look at about `keys` keys (None: at all of them), and ask for at most `limit` drains.

        Where so many keys a sweep would not come round within a third of the TTL, it looks at more, for as long as half
        of the time between two sweeps allows. It ends before its job would be cancelled, and the next one goes on.

        Raises RedisUnavailableError. With the archive away it still holds and rescues what Redis alone tells it.
        """
        report = SweepReport()
        if not dry_run:
            await self._enter_opened(report)
        start = now().timestamp()
        suspects: list[Suspect] = []
        cursor, began = (0, start) if keys is None else await self._scan.place()
        if cursor == 0:
            began = start
        looked, budget = 0, None if keys is None else max(keys, await self._keys_to_come_round())
        keeps_place = budget is not None and not dry_run
        while True:
            page = await self._scan.page(cursor)
            cursor, looked = page.cursor, looked + page.keys
            for first in range(0, len(page.call_sids), _SESSIONS_AT_ONCE):
                some = page.call_sids[first : first + _SESSIONS_AT_ONCE]
                suspects += await self._visit(some, report, limit, dry_run=dry_run)
            del suspects[_MOST_SUSPECTS:]
            progress(report)
            seconds = now().timestamp() - start
            late = seconds > _LONGEST_SECONDS or (looked >= (keys or 0) and seconds > self._rules.sweep_seconds / 2)
            if cursor == 0 or (budget is not None and (looked >= budget or late)):
                break
            if keeps_place:
                # Whoever is ended from outside has come so far.
                await self._scan.keep_place(cursor, began)
        report.round_complete = cursor == 0
        if report.round_complete:
            report.round_seconds = now().timestamp() - began
            if not dry_run:
                await self._find_missing(report, datetime.fromtimestamp(began, UTC), limit)
        if keeps_place:
            await self._scan.keep_place(cursor, began)
        if not dry_run:
            # Last: a provider that hangs delays nothing but the calls that wait for its word.
            left = max(0, limit - report.rescued - report.checkpoints)
            seconds = self._rules.sweep_seconds / 2
            report.rescued += await self._inquiry.ask(suspects, report.asked, limit=left, seconds=seconds)
        self._say(report)
        return report

    async def _keys_to_come_round(self) -> int:
        """How many keys each sweep has to look at for a round to end within a third of the TTL, and a little more."""
        sweeps = self._rules.ttl_seconds / 3 / self._rules.sweep_seconds
        return ceil(1.2 * await self._scan.all_keys() / max(1.0, sweeps))

    async def _visit(self, call_sids: list[str], report: SweepReport, limit: int, *, dry_run: bool) -> list[Suspect]:
        """Do what is to be done with these sessions; returns those whose provider is to be asked about them."""
        moment = now()
        looks = await self._scan.look(call_sids)
        await self._scan.count_events([look for look in looks if not look.is_ours])
        if not dry_run:
            # Now: the archive, if it is away, takes longer to say so than a session may have left.
            await self._scan.hold([look.call_sid for look in looks if look.is_ours and self._rules.may_expire(look)])
        known = await self._known([look for look in looks if is_call_sid(look.call_sid)], report)
        await self._scan.count_events(
            [look for look in looks if (found := known.get(look.call_sid)) and found.status in PROVISIONAL]
        )
        seen: list[Seen] = []
        hold: list[str] = []
        rescue: dict[str, str] = {}
        checkpoint: list[str] = []
        suspects: list[Suspect] = []
        for look in looks:
            sid = look.call_sid
            sighting = known.get(sid)
            if sighting is None and not look.is_ours:
                report.foreign += 1
                continue
            report.sessions += 1
            if is_call_sid(sid) and (sighting is not None or not look.waiting):
                # One whose drain is asked for is entered by it, perhaps right now: this would have to wait for that.
                seen.append(self._seen(look, sighting, moment))
            decision, suspect = self._decide(look, sighting, moment, dry_run=dry_run)
            suspects += suspect
            if decision.action in (Action.RESCUE, Action.CHECKPOINT):
                if report.rescued + report.checkpoints >= limit:
                    report.left += 1
                    # What is left for the next sweep must still be there by then.
                    decision = Decision(Action.HOLD, "left for the next sweep", hold=look.ttl_seconds is not None)
                elif decision.action is Action.RESCUE:
                    rescue[sid] = _why(decision, sighting)
                    report.rescued += 1
                else:
                    checkpoint.append(sid)
                    report.checkpoints += 1
            if decision.hold:
                hold.append(sid)
                report.held += 1
            if decision.action is not Action.NOTHING:
                report.found[decision.reason] += 1
                report.decisions.append((sid, decision))
        if dry_run:
            return suspects
        await self._scan.hold(hold)
        await self._scan.request(rescue)
        await self._scan.request_checkpoints(checkpoint, int(moment.timestamp() * 1000))
        await self._note(seen, moment, report)
        return suspects

    def _decide(
        self, look: Look, sighting: Sighting | None, moment: datetime, *, dry_run: bool
    ) -> tuple[Decision, list[Suspect]]:
        """What to do with a session now, and the session itself if its provider is to be asked about it."""
        decision = self._rules.decide(look, sighting, moment)
        suspect = self._inquiry.suspect(look) if decision == _ABANDON else None
        if suspect is None:
            return decision, []
        if dry_run:
            return Decision(Action.ASK, "silent"), [suspect]
        # Whatever comes back, until then it is written down and held as a call that lives.
        decision = self._rules.decide(look, sighting, moment, vouched=True)
        return replace(decision, hold=look.ttl_seconds is not None), [suspect]

    def _seen(self, look: Look, sighting: Sighting | None, moment: datetime) -> Seen:
        return Seen(
            call_sid=look.call_sid,
            generation=sighting.generation if sighting else None,
            started_at=self._rules.started_at(look),
            changed_at=self._rules.changed_at(look, sighting, moment),
            fingerprint=look.fingerprint.replace("\x00", ""),
        )

    async def _known(self, looks: list[Look], report: SweepReport) -> dict[str, Sighting]:
        if report.archive_away:
            return {}
        try:
            known = await sightings(self._connections, [look.call_sid for look in looks])
        except (ArchiveUnavailableError, TransactionTimeoutError):
            report.archive_away = True
            return {}
        # A SID that is used again after its call was retired names a call that nobody knows yet.
        again = [
            look for look in looks if (found := known.get(look.call_sid)) and self._rules.is_another_call(look, found)
        ]
        for look in again:
            del known[look.call_sid]
        return known

    async def _note(self, seen: list[Seen], moment: datetime, report: SweepReport) -> bool:
        """Note in the book what was seen, if it can be done now; else the next round does it."""
        if report.archive_away or not seen:
            return False
        try:
            await note_seen(self._connections, seen, moment)
        except ArchiveUnavailableError:
            report.archive_away = True
            return False
        except TransactionTimeoutError:
            log.warning("sweep.not_noted", sessions=len(seen), advice="a drain holds one; the next sweep tries again")
            return False
        return True

    async def _enter_opened(self, report: SweepReport) -> None:
        """Enter calls that recorders opened, also those that ended or vanished before any sweep met them."""
        opened = await self._scan.opened(10_000)
        moment = now()
        seen = [Seen(sid, None, None, moment, None) for sid in opened if is_call_sid(sid)]
        if not seen or await self._note(seen, moment, report):
            await self._scan.forget_opened(opened)

    async def _find_missing(self, report: SweepReport, began: datetime, limit: int) -> None:
        """Calls believed alive that the whole round has not met: their drain will find that they are lost."""
        if report.archive_away:
            return
        try:
            unmet = await not_seen_since(self._connections, began, limit)
        except (ArchiveUnavailableError, TransactionTimeoutError):
            report.archive_away = True
            return
        if unmet:
            missing = await self._scan.request_missing(unmet, int(now().timestamp() * 1000))
            report.missing += len(missing)

    def _say(self, report: SweepReport) -> None:
        did = {"held": report.held, "rescued": report.rescued, "checkpoints": report.checkpoints}
        if any(did.values()) or report.missing or report.left or report.asked:
            asked = {f"asked_{word}": count for word, count in report.asked.items()}
            log.info("sweep.done", sessions=report.sessions, **did, missing=report.missing, left=report.left, **asked)
        if report.left:
            log.warning(
                "sweep.limit", left=report.left, advice="the next sweep goes on; raise SESSION_BRIDGE_SWEEP_LIMIT"
            )
        if report.archive_away:
            log.warning("sweep.archive_away", advice="sessions are held in Redis until PostgreSQL is back")
        if report.round_seconds is not None and report.round_seconds > self._rules.ttl_seconds / 3:
            log.warning(
                "sweep.slow_round",
                round_seconds=round(report.round_seconds),
                advice="a round should end within a third of the TTL: raise the TTL or run fewer other keys beside",
            )


def _why(decision: Decision, sighting: Sighting | None) -> str:
    """Why the drain is asked for, as the session is told; '' leaves what it says.

    Why an archived call was finalized is known, and late data does not change it. To one that was given up it is told
    again, for it may still show that it lives.
    """
    if decision.reason != LATE_DATA:
        return decision.reason
    return EndReason.ABANDONED if sighting is not None and sighting.status == Status.ABANDONED else ""
