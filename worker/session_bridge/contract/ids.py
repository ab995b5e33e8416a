"""The one door through which time and new ids come in."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from uuid import UUID

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def now_ms() -> int:
    """The present moment in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Ulids:
    """Makes ULIDs that only grow within one process, even inside one millisecond or when the clock steps back.

    The form is that of https://github.com/ulid/spec: 48 bits of milliseconds, 80 bits of randomness, 26 characters.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def new(self, at_ms: int | None = None) -> str:
        """The next ULID, of `at_ms` (milliseconds since 1970) or of now."""
        milliseconds = now_ms() if at_ms is None else at_ms
        if milliseconds > self._last >> _RANDOM_BITS:
            # The top bit of the random part is left clear, so that counting up cannot run over into the time.
            self._last = milliseconds << _RANDOM_BITS | int.from_bytes(os.urandom(10), "big") >> 1
        else:
            self._last += 1
        return _base32(self._last)


def _base32(number: int) -> str:
    return "".join([_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5)])


def uuid7(moment: datetime) -> UUID:
    """A new UUIDv7 (RFC 9562) whose time is `moment`, to the millisecond."""
    milliseconds = int(moment.timestamp() * 1000)
    random = int.from_bytes(os.urandom(10), "big")
    return UUID(int=milliseconds << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (1 << 62) - 1)
