"""The worker processes: as many as are wanted, each started anew whenever it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("session-bridge")
_RESTART_SECONDS = 0.2
_STOP_SECONDS = 30.0


class Team:
    """Workers that are kept running until `dismiss`; `surprises` are ends that nobody caused."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *, command: Sequence[str | Path] = (COMMAND, "worker")
    ) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._environment = environment
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._told: dict[int, signal.Signals] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._dismissed = False
        self.started = 0
        self.sent_away = 0
        """Starts that found a server away: the command says so and ends, for whoever starts it to try again."""
        self.surprises: list[str] = []

    def employ(self, number: int) -> None:
        """Keep so many workers running."""
        self._keepers = [asyncio.create_task(self._keep(place)) for place in range(number)]

    async def strike(self, with_signal: signal.Signals, pick: float) -> None:
        """Send a signal to one of the workers, chosen by `pick` (0 to 1), as soon as one runs."""
        while not self._running:  # noqa: ASYNC110  # all may be on their way back at once
            await asyncio.sleep(_RESTART_SECONDS)
        self.tell(self.running[int(pick * len(self._running))], with_signal)

    @property
    def running(self) -> list[asyncio.subprocess.Process]:
        """The workers that run now."""
        return list(self._running.values())

    def tell(self, process: asyncio.subprocess.Process, with_signal: signal.Signals) -> None:
        """Send a signal to one of them."""
        self._told[process.pid] = with_signal
        process.send_signal(with_signal)

    async def dismiss(self) -> None:
        """Ask all to end, and wait for it."""
        self._dismissed = True
        for process in list(self._running.values()):
            self._told.setdefault(process.pid, signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
        _, late = await asyncio.wait(self._keepers, timeout=_STOP_SECONDS)
        if late:
            self.surprises.append(f"{len(late)} workers did not end after SIGTERM")
            for process in self._running.values():
                process.kill()
            await asyncio.wait(late)

    def abandon(self) -> None:
        """Kill whoever still runs: the campaign was broken off."""
        self._dismissed = True
        for process in self._running.values():
            process.kill()

    async def _keep(self, place: int) -> None:
        while not self._dismissed:
            path = self._folder / f"worker-{place}-{self.started}.log"
            with path.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *self._command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
            self.started += 1
            self._running[place] = process
            status = await process.wait()
            del self._running[place]
            self._judge(path, status, self._told.pop(process.pid, None))
            await asyncio.sleep(_RESTART_SECONDS)

    def _judge(self, path: Path, status: int, told: signal.Signals | None) -> None:
        text = path.read_text(encoding="utf-8", errors="replace")
        # arq says so when the end of a job could not be told to a Redis that is away; nothing hangs on that.
        if "Traceback" in text and "arq/worker.py" not in text:
            self.surprises.append(f"{path.name} holds a traceback: {text[text.rindex('Traceback') :].strip()}")
        if told is signal.SIGKILL or (told is signal.SIGTERM and status in (0, -signal.SIGTERM)):
            return
        if "worker.started" not in text and "does not answer" in text:
            self.sent_away += 1
        else:
            self.surprises.append(f"{path.name} ended with status {status} after {told.name if told else 'nothing'}")

    def log(self) -> list[dict[str, Any]]:
        """All that the workers logged, line by line."""
        return [line for path in sorted(self._folder.glob("worker-*.log")) for line in _lines(path)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # The last line of one that was killed may be half a line.
            with contextlib.suppress(ValueError):
                yield json.loads(line)
