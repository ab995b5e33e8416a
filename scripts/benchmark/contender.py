"""What every contender is: some way to bring the same calls into the archive, timed."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmark.lab import Lab
from benchmark.processes import busy_seconds, cpu_seconds, family_cpu_seconds
from benchmark.workload import LiveCall


@dataclass(slots=True)
class Piece:
    """One measured piece of work.

    Beside the time it took: the processor time of the contender's own processes and of each server, and how many
    processors others kept busy meanwhile, for a machine is seldom ours alone. None where the system does not tell.
    """

    calls: int
    seconds: float = 0.0
    cpu_seconds: float | None = None
    postgres_seconds: float | None = None
    valkey_seconds: float | None = None
    others: float | None = None

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


@contextmanager
def piece(lab: Lab, calls: int, pids: Sequence[int]) -> Iterator[Piece]:
    """Measure a block, in which the processes `pids` archive `calls` calls; what was written before it is settled."""
    lab.settle()
    measured = Piece(calls)
    before = _spent(lab, pids)
    began = time.perf_counter()
    yield measured
    measured.seconds = time.perf_counter() - began
    spent = [
        None if now is None or then is None else now - then for now, then in zip(_spent(lab, pids), before, strict=True)
    ]
    measured.cpu_seconds, measured.postgres_seconds, measured.valkey_seconds, ours, busy = spent
    known = [ours, *spent[1:3]] if os.getpid() in pids else [ours, *spent[:3]]
    if busy is not None and None not in known:
        measured.others = max(0.0, busy - sum(filter(None, known))) / measured.seconds


def _spent(lab: Lab, pids: Sequence[int]) -> list[float | None]:
    """What the contender, both servers, the benchmark itself and the whole machine have used so far."""
    servers = lab.servers
    return [
        cpu_seconds(pids),
        family_cpu_seconds(servers.postgres.pid),
        cpu_seconds([servers.valkey.pid]),
        time.process_time(),
        busy_seconds(),
    ]


@dataclass(slots=True)
class Stopwatch:
    """How long a block took, and how much of this process's processor time."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a block."""
    watch = Stopwatch()
    began, cpu = time.perf_counter(), time.process_time()
    yield watch
    watch.seconds, watch.cpu_seconds = time.perf_counter() - began, time.process_time() - cpu


@dataclass(slots=True)
class Contender(ABC):
    """One way to archive calls.

    `share` is the part of a round's calls that it is given: what is slow by a constant for each call needs fewer of
    them to show it.
    """

    name: str
    share: float = field(default=1.0, kw_only=True)

    @abstractmethod
    def run(self, lab: Lab, calls: list[LiveCall]) -> Piece:
        """Archive `calls`, in servers that are empty; only the archiving itself is timed.

        Raises UnfairError if the archive does not hold them afterwards.
        """
