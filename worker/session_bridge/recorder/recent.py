"""What Redis acknowledged a moment ago: a failover, or a crash without a full AOF, may lose it all the same."""

from __future__ import annotations

from collections import deque

from session_bridge.recorder.entries import Entry

# An AOF that is synced every second loses two at most; replicas lag by less unless something else is wrong.
_SECONDS = 5.0


class Recent:
    """The entries of the last five seconds, as long as they are no more than `bound`."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._batches: deque[tuple[float, list[Entry]]] = deque()

    def remember(self, batch: list[Entry], now: float) -> None:
        """`batch` has been acknowledged at `now`, a monotonic time in seconds."""
        self._batches.append((now, batch))
        self._count += len(batch)
        while self._batches and (self._batches[0][0] < now - _SECONDS or self._count > self._bound):
            self._count -= len(self._batches.popleft()[1])

    def entries(self) -> list[Entry]:
        """All of them, oldest first."""
        return [entry for _, batch in self._batches for entry in batch]
