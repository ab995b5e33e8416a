"""What the sweep does with a live session it has met. No server is asked here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum

from session_bridge.archive.book import RETIRED, Sighting
from session_bridge.contract.times import parse_time
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, EndReason, status_of
from session_bridge.live.scan import Look

LATE_DATA = "late data"
_OVER = ("archived", "lost", "dead", RETIRED)


class Action(StrEnum):
    """What is to be done with a session."""

    NOTHING = "nothing"
    HOLD = "hold"
    """Its TTL is taken from it."""
    RESCUE = "rescue"
    """Its drain is asked for."""
    CHECKPOINT = "checkpoint"
    """It is written down and lives on."""
    ASK = "ask"
    """Its provider is asked whether it lives."""


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, the reason for it, and whether the TTL is taken away besides."""

    action: Action
    reason: str = ""
    hold: bool = False


@dataclass(frozen=True, slots=True)
class SweepRules:
    """The settings of a sweep, in seconds."""

    ttl_seconds: float = 3600
    sweep_seconds: float = 30
    idle_seconds: float = 600
    abandon_seconds: float = 3600
    checkpoint_seconds: float = 300
    zone: tzinfo = UTC

    def decide(self, look: Look, known: Sighting | None, now: datetime, *, vouched: bool = False) -> Decision:
        """What to do with the session seen in `look`, of which the book has `known`, at the moment `now`.

        `vouched` says that its silence is no reason to end it.
        """
        near_end = self.may_expire(look)
        if look.waiting:
            return Decision(Action.HOLD if near_end else Action.NOTHING, "waiting", hold=near_end)
        if status_of(look.state["status"]) in TERMINAL or self._time(look.state["ended_at"]):
            return Decision(Action.RESCUE, "ended and not asked for")
        if known is not None and known.state in _OVER and not self._lives_again(look, known):
            return Decision(Action.RESCUE, LATE_DATA)
        changed_at = self.changed_at(look, known, now)
        silence = (now - changed_at).total_seconds()
        if silence > self.abandon_seconds and not vouched:
            return Decision(Action.RESCUE, EndReason.ABANDONED)
        checkpointed_at = known.checkpointed_at if known else None
        if checkpointed_at is None or checkpointed_at < changed_at:
            if silence > self.idle_seconds:
                return Decision(Action.CHECKPOINT, "idle", hold=near_end)
            since = checkpointed_at or self._began(look, known, now)
            if (now - since).total_seconds() > self.checkpoint_seconds:
                return Decision(Action.CHECKPOINT, "long", hold=near_end)
        return Decision(Action.HOLD, "near expiry", hold=True) if near_end else Decision(Action.NOTHING)

    def may_expire(self, look: Look) -> bool:
        """Whether a session has to lose its TTL: it is near its end, or nobody will renew it since it waits."""
        if look.ttl_seconds is None:
            return False
        return look.waiting or look.ttl_seconds < max(3 * self.sweep_seconds, self.ttl_seconds / 3)

    def changed_at(self, look: Look, known: Sighting | None, now: datetime) -> datetime:
        """The last moment at which this session gave a sign of life."""
        said = self._time(look.state["last_activity_at"])
        if known is None:
            # Seen for the first time: when it was last written nobody knows but the writer.
            return min(said, now) if said else now
        if known.fingerprint is None or known.fingerprint == look.fingerprint:
            seen = known.last_change_at
            return min(max(seen, said), now) if said else seen
        return now

    def is_another_call(self, look: Look, known: Sighting) -> bool:
        """Whether a session under a retired call's SID began after that call was retired."""
        began = self.started_at(look)
        return known.state == RETIRED and bool(began and known.ended_at and began > known.ended_at)

    def started_at(self, look: Look) -> datetime | None:
        """When the call began, if the session says so."""
        return self._time(look.state["started_at"])

    def _began(self, look: Look, known: Sighting | None, now: datetime) -> datetime:
        return self.started_at(look) or (known.first_seen_at if known else now)

    def _lives_again(self, look: Look, known: Sighting) -> bool:
        """Whether a call whose end was only inferred shows a sign of life: a message, a heartbeat, a status."""
        if known.status not in PROVISIONAL:
            return False
        said = self._time(look.state["last_activity_at"])
        active = said is not None and (known.ended_at is None or said > known.ended_at)
        return look.has_messages or active or status_of(look.state["status"]) is not None

    def _time(self, text: str) -> datetime | None:
        try:
            return parse_time(text, self.zone) if text else None
        except ValueError:
            return None
