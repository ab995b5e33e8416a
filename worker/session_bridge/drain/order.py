"""The order of events within a family: by time, then by id; one without a time follows the one before it by id."""

from __future__ import annotations

from operator import attrgetter
from typing import TypeVar

from session_bridge.contract.event import Event
from session_bridge.drain.call import UnknownEvent

_Item = TypeVar("_Item", Event, UnknownEvent)
_LONGEST_ID = 64

_by_time = attrgetter("timestamp")
_by_time_and_id = attrgetter("timestamp", "event_id")


def in_order(events: list[_Item]) -> list[_Item]:
    """The events in the order of the contract."""
    stamps = [event.timestamp for event in events]
    if None not in stamps:
        if len(set(stamps)) == len(stamps):
            return sorted(events, key=_by_time)
        if not any(map(str.isdigit, [event.event_id for event in events])):
            return sorted(events, key=_by_time_and_id)
    stamp = ""
    keyed = []
    for place, event in enumerate(sorted(events, key=_id_key)):
        stamp = event.timestamp or stamp
        keyed.append((stamp, place, event))
    return [event for _, _, event in sorted(keyed)]


def _id_key(event: Event | UnknownEvent) -> tuple[int, str, str]:
    """Numbers as numbers, before every other id."""
    event_id = event.event_id
    if event_id.isdigit():
        # Without leading zeros, the shorter number is the smaller one.
        number = event_id.lstrip("0")
        return len(number) - _LONGEST_ID - 1, number, event_id
    return 0, event_id, ""
