"""The order of events within a family: by time, then by id; one without a time follows the one before it by id."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from session_bridge.contract.times import EARLIEST
from session_bridge.drain.call import Event, UnknownEvent

_Item = TypeVar("_Item", Event, UnknownEvent)


def in_order(events: list[_Item]) -> list[_Item]:
    """The events in the order of the contract."""
    if len(events) < 2:  # noqa: PLR2004
        return events
    by_id = sorted(events, key=_id_key)
    moment: datetime = EARLIEST
    keyed = []
    for place, event in enumerate(by_id):
        moment = event.timestamp or moment
        keyed.append((moment, place, event))
    keyed.sort(key=_time_and_place)
    return [event for _, _, event in keyed]


def _time_and_place(keyed: tuple[datetime, int, _Item]) -> tuple[datetime, int]:
    return keyed[:2]


def _id_key(event: Event | UnknownEvent) -> tuple[int, str]:
    """Numbers as numbers, before every other id."""
    event_id = event.event_id
    # A number sorts as a number when the shorter comes first and leading zeros do not count.
    if event_id.isdigit():
        number = event_id.lstrip("0")
        return len(number) - 65, number
    return 0, event_id
