"""What Redis acknowledged a moment ago: a failover, or a crash without a full AOF, may lose it all the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from session_bridge.recorder.entries import Entry

# An AOF that is synced every second loses two at most.
_SECONDS = 5.0


@dataclass(slots=True)
class _Batch:
    """What was acknowledged at once: when, and an offset of the replication's stream behind which it surely lies."""

    at: float
    entries: list[Entry]
    offset: int | None = None


class Recent:
    """The entries of the last five seconds, and older ones that a replica may lack, as long as `bound` holds them."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._count = 0
        self._batches: deque[_Batch] = deque()
        self._replicated: int | None = None

    def remember(self, batch: list[Entry], now: float) -> None:
        """`batch` has been acknowledged at `now`, a monotonic time in seconds."""
        self._batches.append(_Batch(now, batch))
        self._count += len(batch)
        while self._batches and (self._count > self._bound or self._is_safe(self._batches[0], now)):
            self._count -= len(self._batches.popleft().entries)

    def replicated(self, told: Mapping[str, object]) -> None:
        """What INFO says of the replication, asked for after all that is remembered."""
        offset = told.get("master_repl_offset")
        replicas = [value for name, value in told.items() if name.startswith("slave") and isinstance(value, dict)]
        behind = [at for replica in replicas if isinstance(at := replica.get("offset"), int)]
        if not isinstance(offset, int):
            return
        if behind:
            # The slowest may be the one that takes over. One that has gone has what it had.
            self._replicated = min(behind)
        for batch in reversed(self._batches):
            if batch.offset is not None:
                break
            batch.offset = offset

    def forget_replicas(self) -> None:
        """Another server answers: how far its replicas are is not known yet."""
        self._replicated = None
        for batch in self._batches:
            batch.offset = None

    def entries(self) -> list[Entry]:
        """All of them, oldest first."""
        return [entry for batch in self._batches for entry in batch.entries]

    def _is_safe(self, batch: _Batch, now: float) -> bool:
        if batch.at >= now - _SECONDS:
            return False
        return self._replicated is None or (batch.offset is not None and batch.offset <= self._replicated)
