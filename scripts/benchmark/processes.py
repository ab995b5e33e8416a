"""Processes of the benchmark's own: started, told to go, looked at, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Child(AbstractContextManager["Child"]):
    """A program that runs for as long as the block."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, piped: bool = False) -> None:
        self._command = command
        self._process = subprocess.Popen(  # noqa: S603  # our own programs
            command,
            env=os.environ | environment,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def hear(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    @property
    def running(self) -> bool:
        """True; raises RuntimeError if it has ended."""
        status = self._process.poll()
        if status is not None:
            raise RuntimeError(f"{' '.join(self._command)} ended with status {status}; what it said is above")
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def program(name: str) -> str:
    """The path of a command that was installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def cpu_seconds(pids: Sequence[int]) -> float | None:
    """The processor time of these processes so far, all together; None where the system does not tell."""
    times = [_times(pid) for pid in pids]
    return sum(own for own, _, _ in filter(None, times)) if all(times) else None


def family_cpu_seconds(pid: int) -> float | None:
    """The processor time of a process and of its children, those that have ended included."""
    parent = _times(pid)
    if parent is None:
        return None
    running = [_times(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")]
    return parent[0] + parent[1] + sum(own for own, _, parent_pid in filter(None, running) if parent_pid == pid)


def busy_seconds() -> float | None:
    """The time that all processors of the machine together have been busy since it started."""
    try:
        # https://man7.org/linux/man-pages/man5/proc_stat.5.html: idle and iowait are the fourth and fifth.
        ticks = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except OSError:
        return None
    return sum(int(tick) for place, tick in enumerate(ticks) if place not in (3, 4)) / _TICKS


def _times(pid: int) -> tuple[float, float, int] | None:
    """A process's own time, that of its children that have ended, and its parent."""
    try:
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: what follows the name begins with the third field.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS, (int(fields[13]) + int(fields[14])) / _TICKS, int(fields[1])


def memory_bytes(pid: int, what: str = "VmRSS") -> int | None:
    """The memory a process holds (`VmRSS`) or held at most (`VmHWM`); None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    return None
