"""What is archived of a call and what has newly been read, as one call.

The result is the same as if everything had been read at once: an event is known by its id, a value never gives way to
an empty one, nor a newer one to an older, and a status that has ended does not begin again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, tzinfo
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import JsonValue
from pydantic_core import from_json

from session_bridge.contract.event import Event
from session_bridge.contract.fields import TIME_FIELDS, Family, FinalizedBy
from session_bridge.contract.vocabulary import PROVISIONAL, TERMINAL, EndReason, Status, end_reason_of, status_of
from session_bridge.drain.call import Call, UnknownEvent, Value

_Item = TypeVar("_Item", Event, UnknownEvent)
_Getter: TypeAlias = Callable[[Any], Any]
_id, _extra = attrgetter("event_id"), attrgetter("extra")
_family_and_id, _payload = attrgetter("family", "event_id"), attrgetter("payload")
_INFERRED, _WRITER = "inferred", "writer"
# What a status weighs by who said it; whoever else says one is a provider.
_WEIGHTS: dict[Value, int] = {_INFERRED: 0, _WRITER: 1}
_PROVIDER = 2
_END_REASONS = frozenset(EndReason)
_RECORDING = {
    "recording_sid": "recording_sid",
    "recording_url": "recording_url",
    "duration_seconds": "recording_duration_seconds",
}
# The names under which `drain.events` keeps such a time of an event.
_RAW, _RAW_TIME = "_raw", re.compile("(?:timestamp|joined_at|left_at)_raw_*")
_STATUS = ("status", "status_raw", "status_by", "status_sequence")


def combine(archived: Call | None, read: Call, *, requested: bool, zone: tzinfo = UTC) -> Call:
    """`archived` (None for a call not archived yet) and `read` as one; `requested` if its end was asked for.

    `read` is used up. `zone` is that of times without one.
    """
    _name_status(read)
    if archived is not None:
        _join(archived, read)
    if requested:
        _end(read)
    _infer_end(read, zone)
    _infer_start(read)
    _infer_recording(read)
    return read


def _name_status(call: Call) -> None:
    """Put the status and the end reason into their one vocabulary, the writer's own words beside them."""
    state = call.state
    for name in ("status", "end_reason"):
        word = state.pop(name, None)
        if isinstance(word, str):
            if not (name == "end_reason" and word in _END_REASONS and state.get("end_reason_raw")):
                state[f"{name}_raw"] = word
            # Else a webhook that knows its provider's words has named the end, and gave the word with it.
            meaning: str | None = status_of(word) if name == "status" else end_reason_of(word)
            if meaning is not None:
                state[name] = meaning
    if "status" in state:
        state.setdefault("status_by", _WRITER)
    else:
        # Who said it and in what order tell nothing about a status that was not said; it stays among what nobody knows.
        for name in ("status_by", "status_sequence"):
            said = state.pop(name, None)
            if said is not None and "status_raw" not in state:
                call.extra.setdefault(name, str(said))


def _join(archived: Call, read: Call) -> None:
    before, after = _moment(archived, "last_activity_at"), _moment(read, "last_activity_at")
    stale = before is not None and after is not None and after < before
    older, newer = (read, archived) if stale else (archived, read)

    status = _join_status(archived, read, stale=stale)
    activity = max((moment for moment in (before, after) if moment), default=None)
    state = older.state | newer.state
    for name in _STATUS:
        state.pop(name, None)
    state.update(status)
    if archived.state.get("status") == Status.ABANDONED != status.get("status"):
        # What the abandonment said of the end is taken back with it.
        for name in ("end_reason", "finalize_reason", "finalized_by"):
            if name not in read.state and archived.state.get(name) in (EndReason.ABANDONED, FinalizedBy.SWEEP):
                state.pop(name, None)
    if activity:
        state["last_activity_at"] = activity

    read.documents = older.documents | newer.documents
    # A time that made no sense was said anew, and makes sense.
    mended = {f"{name}_raw" for name in TIME_FIELDS if not stale and name in read.state} - read.extra.keys()
    read.extra = {name: text for name, text in (older.extra | newer.extra).items() if name not in mended}
    read.history = join_history(archived.history, read.history)
    read.events = {
        family: _join_events(older.of(family), newer.of(family))
        for family in Family
        if older.of(family) or newer.of(family)
    }
    read.unknown_events = _join_events(older.unknown_events, newer.unknown_events, _family_and_id, _payload)
    read.state = state
    read.doubtful = _is_doubtful(read)


def _is_doubtful(call: Call) -> bool:
    """Whether a time of the call was kept as it came because it made no sense."""
    if any(f"{name}_raw" in call.extra and name not in call.state for name in TIME_FIELDS):
        return True
    return any(
        _RAW in event.extra and any(map(_RAW_TIME.fullmatch, from_json(event.extra)))
        for events in call.events.values()
        for event in events
        if event.extra
    )


def _join_events(
    older: Sequence[_Item], newer: Sequence[_Item], key: _Getter = _id, more: _Getter = _extra
) -> list[_Item]:
    """The events of both, the newer of two with the same `key`, or the later revision if their `more` names one."""
    if not older:
        return list(newer)
    known = dict(zip(map(key, older), older, strict=True))
    joined = known | dict(zip(map(key, newer), newer, strict=True))
    for event in newer:
        if (text := more(event)) and (other := known.get(key(event))) and _is_outdated(text, more(other)):
            joined[key(event)] = other
    return list(joined.values())


def _is_outdated(text: str, other: str | None) -> bool:
    """Whether `other` names a later revision. Without a revision in both, the newer writing holds."""
    revision, known = _revision(text), _revision(other)
    return revision is not None and known is not None and known > revision


def _revision(text: str | None) -> int | None:
    if not text or '"revision"' not in text:
        return None
    revision = from_json(text).get("revision")
    return revision if isinstance(revision, int) else None


def _join_status(archived: Call, read: Call, *, stale: bool) -> dict[str, Value]:
    """The status that holds: the provider's word before the writer's, an end before what came before it."""
    old = {name: archived.state[name] for name in _STATUS if name in archived.state}
    new = {name: read.state[name] for name in _STATUS if name in read.state}
    if "status" not in new:
        if old.get("status") in PROVISIONAL and lives(archived, read):
            return {"status": Status.IN_PROGRESS, "status_by": _INFERRED}
        if old.get("status") in TERMINAL | PROVISIONAL or stale:
            return old
        # A word that nobody knows is the latest all the same.
        return old | new
    if "status" not in old:
        return new
    was_ended, ends = old["status"] in TERMINAL, new["status"] in TERMINAL
    if old["status"] in PROVISIONAL:
        # An end that we inferred gives way to anything a writer or a provider says, unless it was said before.
        return old if stale and not ends else new
    if was_ended != ends:
        return old if was_ended else new
    if new["status"] in PROVISIONAL:
        # It is gone or silent, whatever was last said of it.
        return new
    weights = [_WEIGHTS.get(status.get("status_by"), _PROVIDER) for status in (old, new)]
    if weights[0] != weights[1]:
        return old if weights[0] > weights[1] else new
    sequences = [status.get("status_sequence") for status in (old, new)]
    if isinstance(sequences[0], int) and isinstance(sequences[1], int) and sequences[0] != sequences[1]:
        return old if sequences[0] > sequences[1] else new
    return old if stale else new


def lives(archived: Call, read: Call) -> bool:
    """Whether what was read is a sign of life: a new message or newer activity. A recording's link is none."""
    known = {event.event_id for event in archived.of(Family.MESSAGE)}
    if any(event.event_id not in known for event in read.of(Family.MESSAGE)):
        return True
    if len(join_history(archived.history, read.history)) > len(archived.history):
        return True
    before, after = _moment(archived, "last_activity_at"), _moment(read, "last_activity_at")
    return after is not None and (before is None or after > before)


def _end(call: Call) -> None:
    """A drain was asked for: the call is over, whatever its status says."""
    state = call.state
    if state.get("status") in TERMINAL or state.get("status") in PROVISIONAL:
        return
    abandoned = state.get("finalized_by") == FinalizedBy.SWEEP and state.get("finalize_reason") == EndReason.ABANDONED
    state["status"] = Status.ABANDONED if abandoned else Status.COMPLETED
    # The writer who gave the end's time has said that it ended.
    state["status_by"] = _WRITER if "ended_at" in state and not abandoned else _INFERRED
    if abandoned:
        state["end_reason"] = EndReason.ABANDONED


def _infer_end(call: Call, zone: tzinfo) -> None:
    state = call.state
    if state.get("status") in TERMINAL | PROVISIONAL and "ended_at" not in state:
        activity = call.last_activity(zone)
        if activity is not None:
            state["ended_at"] = activity
            call.inferred.add("ended_at")


def _infer_start(call: Call) -> None:
    """A call began when it was answered, or before: some webhooks tell of an end and how long it was talked."""
    if "started_at" not in call.state and "answered_at" in call.state:
        call.state["started_at"] = call.state["answered_at"]
        call.inferred.add("started_at")


def _infer_recording(call: Call) -> None:
    """The call's own recording is the latest of its recordings, if nobody has said which it is."""
    if any(name in call.state for name in _RECORDING.values()):
        return
    recordings = [event for event in call.of(Family.RECORDING) if event.recording_url]
    if recordings:
        latest = max(recordings, key=lambda event: (event.timestamp or "", event.event_id))
        for name, column in _RECORDING.items():
            value = getattr(latest, name)
            if value is not None:
                call.state[column] = value
                call.inferred.add(column)


def join_history(archived: list[dict[str, JsonValue]], read: list[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Two readings of `transcript_history` as one, joined at their longest overlap.

    The list has no ids and is trimmed and restarted by its writers, so places in it mean nothing: a reading that
    stands within the other adds nothing, one that begins with what the other ends with continues it, and any other
    comes after it.
    """
    if not archived or not read:
        return archived or read
    if _within(archived, read):
        return read
    if _within(read, archived):
        return archived
    for length in range(min(len(archived), len(read)), 0, -1):
        if archived[-length] == read[0] and archived[-length:] == read[:length]:
            return archived + read[length:]
    # A sentence that went on, or was cut off, since it was written down: the last one is another then.
    for length in range(min(len(archived), len(read)), 0, -1):
        alone = length == 1 < len(archived)
        if not alone and archived[-length:-1] == read[: length - 1] and _is_rewritten(archived[-1], read[length - 1]):
            return archived[:-1] + read[length - 1 :]
    return archived + read


def _is_rewritten(before: dict[str, JsonValue], after: dict[str, JsonValue]) -> bool:
    """Whether two items are one sentence, of which more or less is said in the later reading."""
    said, now = before.get("content"), after.get("content")
    if before.get("role") != after.get("role") or not isinstance(said, str) or not isinstance(now, str):
        return False
    times = before.get("timestamp"), after.get("timestamp")
    if None not in times:
        return times[0] == times[1]
    return now.startswith(said) or said.startswith(now)


def _within(part: list[dict[str, JsonValue]], whole: list[dict[str, JsonValue]]) -> bool:
    starts = range(len(whole) - len(part) + 1)
    return any(whole[start] == part[0] and whole[start : start + len(part)] == part for start in starts)


def _moment(call: Call, name: str) -> datetime | None:
    return cast("datetime | None", call.state.get(name))
