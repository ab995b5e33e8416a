"""A simulated call as plain data, and the live session it comes to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import JsonValue

from session_bridge.contract.fields import Family


class Ending(StrEnum):
    """How the end of the call becomes known."""

    STOP = "stop"
    """The agent hangs up, and the recorder ends the call."""
    DISCONNECT = "disconnect"
    """The connection breaks in the middle of the conversation."""
    WEBHOOK = "webhook"
    """The recording process is gone; the provider reports the end."""
    LATE = "late"
    """As a stop; the link to the recording comes when the call has long been archived."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, `at_ms` milliseconds into the call; `times` are further fields of it, as milliseconds too.

    `event_id` is set where the event is said again later, with more of it known.
    """

    at_ms: int
    family: Family
    data: Mapping[str, JsonValue]
    times: Mapping[str, int] = field(default_factory=dict)
    event_id: str | None = None

    def fields(self, started_at: datetime) -> dict[str, JsonValue]:
        """The event's JSON object, in a call that began at `started_at`."""
        times = {name: moment_text(started_at, at_ms) for name, at_ms in self.times.items()}
        return {"timestamp": moment_text(started_at, self.at_ms), **self.data, **times}


@dataclass(frozen=True, slots=True)
class Change:
    """State fields and documents that are set, `at_ms` milliseconds into the call."""

    at_ms: int
    fields: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """A whole call: what is known when it begins, what happens in it in order, and how it ends."""

    call_sid: str
    scenario: str
    language: str
    ending: Ending
    end_reason: str
    duration_ms: int
    state: Mapping[str, JsonValue]
    steps: tuple[Event | Change, ...]
    late: Mapping[str, JsonValue] = field(default_factory=dict)
    """State fields that come after the end."""


def live_fields(call: SimulatedCall, started_at: datetime) -> dict[str, str]:
    """The fields of the call's hash in Redis when it is over, written by nobody: for `HSET` as it is.

    Events are named by number. What comes late is left out.
    """
    fields = {name: _text(value) for name, value in call.state.items()}
    fields["started_at"] = moment_text(started_at, 0)
    numbers: Counter[Family] = Counter()
    for step in call.steps:
        if isinstance(step, Change):
            fields.update((name, _text(value)) for name, value in step.fields.items())
            continue
        numbers[step.family] += 1
        name = step.event_id or f"{numbers[step.family]:04}"
        fields[f"{step.family}:{name}"] = _text(step.fields(started_at))
    if call.ending is not Ending.DISCONNECT:
        fields |= {"status": "completed", "end_reason": call.end_reason}
        fields["ended_at"] = moment_text(started_at, call.duration_ms)
    fields["last_activity_at"] = moment_text(started_at, call.duration_ms)
    return fields


def moment_text(started_at: datetime, at_ms: int) -> str:
    """The moment `at_ms` milliseconds into a call that began at `started_at`, as ISO 8601."""
    return (started_at + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
