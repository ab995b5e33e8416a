"""What happens when: faults and their moments, drawn from a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from random import Random

_SECONDS_PER_FAULT = 2.0
_CALLS_PER_SECOND = 12.0
_AT_LEAST_SECONDS = 20.0
# The first calls are on their way, and workers are there, before anything fails.
_CALM_SECONDS = 3.0


class Kind(StrEnum):
    """A fault, in the words of the report."""

    KILL = "worker SIGKILLed"
    TERMINATE = "worker SIGTERMed"
    RECORDER = "recorder SIGKILLed, started"
    POSTGRES = "PostgreSQL stopped immediately, started"
    VALKEY = "Valkey SIGKILLed, started"
    POSTGRES_CUT = "PostgreSQL cut off"
    POSTGRES_STALL = "PostgreSQL stalled"
    POSTGRES_RESET = "PostgreSQL connections reset"
    COMMIT_UNHEARD = "COMMIT carried, its answer cut off"
    COMMIT_SWALLOWED = "COMMIT cut off"
    VALKEY_CUT = "Valkey cut off"
    VALKEY_STALL = "Valkey stalled"
    VALKEY_RESET = "Valkey connections reset"


CUTS = (
    Kind.COMMIT_UNHEARD,
    Kind.POSTGRES_CUT,
    Kind.VALKEY_RESET,
    Kind.COMMIT_SWALLOWED,
    Kind.VALKEY_CUT,
    Kind.POSTGRES_RESET,
    Kind.VALKEY_STALL,
    Kind.POSTGRES_STALL,
)
# How long each lasts, in seconds; a kind that is not here is over at once.
_LASTS = {
    Kind.POSTGRES: (0.2, 4.0),
    Kind.VALKEY: (0.2, 4.0),
    Kind.POSTGRES_CUT: (0.3, 3.0),
    Kind.VALKEY_CUT: (0.3, 3.0),
    Kind.POSTGRES_STALL: (0.5, 6.0),
    Kind.VALKEY_STALL: (0.5, 6.0),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a campaign is: `kills` are SIGKILLs, `restarts` are of each server, `cuts` of the network."""

    calls: int
    workers: int
    kills: int
    restarts: int
    cuts: int
    recorders: int = 3
    recorder_kills: int = 2

    @property
    def terminations(self) -> int:
        """Workers that are asked to end, one for two that are killed."""
        return self.kills // 2

    @property
    def faults(self) -> int:
        """All of them."""
        return self.kills + self.terminations + self.recorder_kills + 2 * self.restarts + self.cuts

    @property
    def seconds(self) -> float:
        """How long calls are begun and faults happen."""
        return max(_AT_LEAST_SECONDS, self.faults * _SECONDS_PER_FAULT, self.calls / _CALLS_PER_SECOND)


SHORT = Sizes(calls=150, workers=3, kills=6, restarts=1, cuts=8)
FULL = Sizes(calls=2000, workers=3, kills=40, restarts=10, cuts=50, recorder_kills=10)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when it begins and how long it lasts, in seconds; `pick` chooses among what it could hit, 0 to 1."""

    at: float
    kind: Kind
    lasts: float
    pick: float


def draw_faults(sizes: Sizes, random: Random) -> list[Fault]:
    """The faults of a campaign in the order of time: one in each of as many equal spans, somewhere in it."""
    counts = Counter(islice(cycle(CUTS), sizes.cuts))
    counts += Counter({Kind.KILL: sizes.kills, Kind.TERMINATE: sizes.terminations, Kind.RECORDER: sizes.recorder_kills})
    counts += Counter({Kind.POSTGRES: sizes.restarts, Kind.VALKEY: sizes.restarts})
    kinds = sorted(counts.elements())
    random.shuffle(kinds)
    span = (sizes.seconds - _CALM_SECONDS) / max(1, len(kinds))
    faults = []
    for place, kind in enumerate(kinds):
        at = _CALM_SECONDS + (place + random.random()) * span
        faults.append(Fault(at, kind, random.uniform(*_LASTS.get(kind, (0.0, 0.0))), random.random()))
    return faults
