"""Processes that kill themselves at a named point."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Doomed:
    """A process that kills itself at a named point."""

    def __init__(self, environment: dict[str, str], point: str, *command: str) -> None:
        launcher: list[str | Path] = [sys.executable, HERE / "dying.py", point, *command]
        self._process = subprocess.Popen(
            launcher, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait_for_its_death(self, seconds: float = 30) -> None:
        """Return when it has killed itself; it must not end in another way."""
        try:
            words, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            words, _ = self._process.communicate()
            raise AssertionError(f"it never came to that point:\n{words.decode()}") from None
        assert self._process.returncode == -signal.SIGKILL, words.decode()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def dying(deployment: Any) -> Iterator[Callable[..., Doomed]]:
    """Starts a command of the deployment that dies at a point of `dying.py`."""
    started = []

    def begin(point: str, *command: str, **settings: object) -> Doomed:
        started.append(Doomed(deployment.environment(settings), point, *command))
        return started[-1]

    yield begin
    for one in started:
        one.close()
