"""The time as text and a new event id, both from one look at the clock: the recorder asks for them at every event."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)
_COUNTER_BITS = 20


class Moments:
    """Gives out moments: ISO 8601 text in UTC, to the microsecond, and a ULID of the same millisecond.

    The ids have the form of https://github.com/ulid/spec. Their last 80 bits are 60 that are drawn at random for this
    process and 20 that count, so that making one needs no system call: two processes differ in the first part, two
    events of one process in the second. A clock that steps back does not take the ids along.
    """

    __slots__ = ("_clock", "_count", "_high", "_lock", "_millisecond", "_node", "_second")

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock` gives nanoseconds since 1970."""
        self._clock = clock
        self._lock = threading.Lock()
        self._millisecond = 0
        # Each cache is one tuple, replaced whole, so that a second thread never sees half of it.
        self._second = (-1, "")
        self._high = (-1, "")
        self.renew()

    def renew(self) -> None:
        """Draw the random part again, as a forked process must."""
        self._count = count()
        value = int.from_bytes(os.urandom(8), "big") >> 4
        self._node = (0, value, _base32(value, 60))

    def stamp(self) -> tuple[str, str]:
        """The present moment as `2026-11-21T22:51:39.123456+00:00`, and a new ULID."""
        microseconds = self._clock() // 1000
        second, fraction = divmod(microseconds, 1_000_000)
        cached, text = self._second
        if second != cached:
            text = _second_text(second)
            self._second = (second, text)
        number = next(self._count)
        block, _, node = self._node
        if number >> _COUNTER_BITS != block:
            node = self._next_block(number >> _COUNTER_BITS)
        millisecond = microseconds // 1000
        if millisecond < self._millisecond:
            millisecond = self._millisecond
        else:
            self._millisecond = millisecond
        cached, high = self._high
        if millisecond >> 20 != cached:
            high = _base32(millisecond >> 20, 30)
            self._high = (millisecond >> 20, high)
        ulid = (
            f"{high}{_PAIRS[millisecond >> 10 & 1023]}{_PAIRS[millisecond & 1023]}"
            f"{node}{_PAIRS[number >> 10 & 1023]}{_PAIRS[number & 1023]}"
        )
        return f"{text}.{fraction:06}+00:00", ulid

    def text(self) -> str:
        """The present moment as text."""
        return self.stamp()[0]

    def milliseconds(self) -> int:
        """The present moment in milliseconds since 1970."""
        return self._clock() // 1_000_000

    def jitter(self) -> float:
        """A random factor between 0.5 and 1, so that processes which wait for one server do not return as one."""
        return 0.5 + os.urandom(1)[0] / 510

    def _next_block(self, block: int) -> str:
        with self._lock:
            known, value, node = self._node
            if known != block:
                value = value + 1 & (1 << 60) - 1
                node = _base32(value, 60)
                self._node = (block, value, node)
            return node


def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _base32(number: int, bits: int) -> str:
    return "".join([_CROCKFORD[number >> shift & 31] for shift in range(bits - 5, -1, -5)])


MOMENTS = Moments()
os.register_at_fork(after_in_child=MOMENTS.renew)
