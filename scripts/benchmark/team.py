"""Real workers of the bridge: `session-bridge worker`, one process or several."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, cast

from benchmark.lab import KEYS, Lab
from benchmark.processes import Child, program
from benchmark.workload import LiveCall
from session_bridge.contract.ids import now_ms

# A sweep that falls into a measured piece would be counted as its work: these are hours apart.
_SELDOM = {"SESSION_BRIDGE_SWEEP_SECONDS": "3600", "SESSION_BRIDGE_TTL_SECONDS": "7200"}
# What a call cost by the archive's price list nobody else works out; it is a contender of its own.
_UNRATED = {"SESSION_BRIDGE_RATES": "false"}


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How each worker works."""

    batch_size: int = 200
    concurrency: int = 2

    @property
    def environment(self) -> dict[str, str]:
        """The same as variables."""
        return {
            "SESSION_BRIDGE_BATCH_SIZE": str(self.batch_size),
            "SESSION_BRIDGE_CONCURRENCY": str(self.concurrency),
            "SESSION_BRIDGE_LOG_LEVEL": "warning",
        }


@dataclass(slots=True)
class Team:
    """Workers that run, idle and warm, for as long as the block."""

    lab: Lab
    processes: int
    settings: WorkerSettings
    more: dict[str, str] = field(default_factory=dict)
    _workers: list[Child] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers."""
        return [worker.pid for worker in self._workers]

    def warm_up(self, calls: list[LiveCall]) -> None:
        """Have them drain these calls, and empty the archive again."""
        self.lab.fill(calls)
        self.lab.ask(calls)
        self.lab.wait_drained()
        self.lab.empty_archive()

    def __enter__(self) -> Self:
        environment = {"REDIS_URL": self.lab.redis_url, "DATABASE_URL": self.lab.database_url}
        environment |= _SELDOM | _UNRATED | self.settings.environment | self.more
        with ExitStack() as stack:
            command = [program("session-bridge"), "worker"]
            for _ in range(self.processes):
                # One after the other, for each brings a sweep, which would ask for whatever it finds later.
                self.lab.redis.delete(KEYS.sweep)
                self._workers.append(stack.enter_context(Child(command, environment)))
                self.lab.wait(self._started, "a worker to start", pause=0.02)
            self._stack = stack.pop_all()
        return self

    def _started(self) -> bool:
        signs = cast("int", self.lab.redis.zcount(KEYS.workers, now_ms() - 60_000, "+inf"))
        # The sweep that the last one's start brought has left its trace.
        return (
            all(worker.running for worker in self._workers)
            and signs >= len(self._workers)
            and bool(self.lab.redis.exists(KEYS.sweep))
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
