"""What a worker holds of the live sessions it drains: its claims, and what it read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from session_bridge.contract.fields import FinalizedBy
from session_bridge.contract.vocabulary import EndReason
from session_bridge.live.watch import Watch

GIVEN_UP = {b"finalize_reason": EndReason.ABANDONED.encode(), b"finalized_by": FinalizedBy.SWEEP.encode()}
"""What the sweep writes into a session when it asks for the end of a call for its silence."""

WHOLE_BYTES = 1 << 20
"""A session up to this size is read and compared in one piece; a larger one is huge: field by field, and by itself."""
# So much is read, and understood, at once.
_GROUP_BYTES = 16 << 20


class Queue(StrEnum):
    """What a claim is for."""

    READY = "ready"
    CHECKPOINTS = "checkpoints"


@dataclass(slots=True)
class Claim:
    """One call SID in this worker's hands.

    `score` is the lease's own; `times` counts the claims of this SID that had no outcome yet, this one included, and
    `was_alone` says that in one of them its worker had nothing else in hand. `size_bytes` is the memory that its
    session took then, 0 if there was none.
    `due_ms` is when it was due, in milliseconds since 1970: a whole number if it was asked for, a fraction if a lease
    on it ran out.
    """

    call_sid: str
    queue: Queue
    score: bytes
    times: int = 1
    due_ms: float = 0.0
    was_alone: bool = False
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Claims:
    """What one look at a queue brought, and the seconds until its next member falls due."""

    taken: list[Claim]
    next_due: float | None


class Release(StrEnum):
    """What became of a claim when its session was to be let go."""

    RELEASED = "released"
    """Nothing of what was read is in Redis any more, and the request is removed."""
    LEFT = "left"
    """Something was written since it was read; that is kept and due again."""
    WITHDRAWN = "withdrawn"
    """The request was taken back: nothing was released, the drain was a checkpoint."""
    REQUESTED = "requested"
    """A newer request stands in its place: nothing was released, that request will."""


@dataclass(slots=True)
class Snapshot:
    """A live session as it was read, or before it is read.

    `fields` holds every field but those larger
    than the limit, whose sizes in bytes are in `oversize`. `wrong_type` names what the key holds if that is not a hash.
    """

    claim: Claim
    fields: dict[bytes, bytes] = field(default_factory=dict)
    oversize: dict[bytes, int] = field(default_factory=dict)
    wrong_type: str | None = None
    whole: bool = True
    oversize_digests: dict[bytes, str] = field(default_factory=dict)
    raw: dict[bytes, bytes] | None = None
    """The fields as they are in Redis, where redaction has changed them: only a release may look at these."""
    watch: Watch | None = None
    """What vouches for it that it was not touched since it was read, if anything does."""
    withheld: str = ""
    """The error for which the fields could not be redacted: nothing of them may be kept."""

    @property
    def as_read(self) -> dict[bytes, bytes]:
        """The fields as they are in Redis."""
        return self.fields if self.raw is None else self.raw

    @property
    def given_up(self) -> bool:
        """Whether its drain is asked for because of its silence, and by nobody but the sweep."""
        is_drain = self.claim.queue is Queue.READY
        return is_drain and all(self.fields.get(name) == value for name, value in GIVEN_UP.items())

    @property
    def huge(self) -> bool:
        """Whether it is read field by field, and drained by itself: neither its size nor its time is the others'."""
        return self.claim.size_bytes > WHOLE_BYTES

    @property
    def empty(self) -> bool:
        """Whether there was nothing under the key."""
        return not self.fields and not self.oversize and self.wrong_type is None


def in_groups(claims: Iterable[Claim]) -> Iterator[list[Snapshot]]:
    """Snapshots to be read, in groups small enough to be held at once; each huge one by itself, after the others."""
    group: list[Snapshot] = []
    huge: list[Snapshot] = []
    total = 0
    for claim in claims:
        snapshot = Snapshot(claim)
        if snapshot.huge:
            huge.append(snapshot)
            continue
        if group and total + claim.size_bytes > _GROUP_BYTES:
            yield group
            group, total = [], 0
        group.append(snapshot)
        total += claim.size_bytes
    if group:
        yield group
    for snapshot in huge:
        yield [snapshot]
