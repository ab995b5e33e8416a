"""One call as it has been understood, from Redis or from the archive, before it is shaped into rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TypeAlias

from pydantic import JsonValue

from session_bridge.contract.event import Event
from session_bridge.contract.fields import Family
from session_bridge.contract.times import canonical_time

Value: TypeAlias = str | int | float | bool | Decimal | datetime | list[dict[str, JsonValue]] | None
"""A field of an event or of the state; what is kept as JSON is held as its text."""


@dataclass(slots=True)
class UnknownEvent:
    """An event of a family we do not know; `payload` is its JSON as text."""

    family: str
    event_id: str
    timestamp: str | None
    payload: str


@dataclass(slots=True)
class Reject:
    """One field or event that could not be understood, or not whole.

    `raw` is None for a field too large to be held: it is fetched when it is written. `cleaned` says that the field
    is archived all the same, only without what PostgreSQL cannot hold.
    """

    field: bytes
    raw: bytes | None
    size_bytes: int
    reason: str
    error: str
    cleaned: bool = False


@dataclass(slots=True)
class Call:
    """What is known of a call.

    `state` has the state fields by name, typed, none of them empty; `documents` the JSON documents; `extra` the
    fields nobody knows, as text.
    """

    call_sid: str
    state: dict[str, Value] = field(default_factory=dict)
    documents: dict[str, JsonValue] = field(default_factory=dict)
    history: list[dict[str, JsonValue]] = field(default_factory=list)
    events: dict[Family, list[Event]] = field(default_factory=dict)
    unknown_events: list[UnknownEvent] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    inferred: set[str] = field(default_factory=set)
    """State fields that nobody gave and the bridge concluded; they are concluded anew when more is known."""
    doubtful: bool = False
    """Whether a time made no sense, so that what is computed from times is left out."""

    def of(self, family: Family) -> list[Event]:
        """The events of one family, in no order yet."""
        return self.events.get(family, [])

    def last_activity(self, zone: tzinfo = UTC) -> datetime | None:
        """The last moment at which anything is known to have happened in the call; `zone` is that of times without one.

        A price or a recording's link may come a day later: when it came says nothing. Nor is it known of a family that
        nobody knows, which counts only where nothing else tells.
        """
        within = [event for family, events in self.events.items() if family not in _AFTERWARDS for event in events]
        stamps: list[str | None] = [event.timestamp for event in within]
        stamps += [moment for party in self.of(Family.PARTICIPANT) for moment in (party.joined_at, party.left_at)]
        stamps += [_stamp(item, zone) for item in self.history]
        moments = [self.state.get(name) for name in ("last_activity_at", "answered_at", "started_at")]
        known = [stamp for stamp in stamps if stamp]
        if not known and moments[0] is None:
            known = [event.timestamp for event in self.unknown_events if event.timestamp]
        if known:
            moments.append(datetime.fromisoformat(max(known)))
        return max((moment for moment in moments if isinstance(moment, datetime)), default=None)


_AFTERWARDS = frozenset((Family.COST, Family.RECORDING))


def _stamp(item: dict[str, JsonValue], zone: tzinfo) -> str | None:
    try:
        return canonical_time(item.get("timestamp"), zone)
    except ValueError:
        return None
