"""The deployments of the acceptance tests, for those who do worse to them."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """A module by its file: under `--import-mode=importlib` tests have no names to import each other by."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


acceptance = load(HERE.parent / "acceptance" / "conftest.py")
deployment = acceptance.deployment
until_ = acceptance.until_
call_fields_ = acceptance.call_fields_
mortal_valkey = acceptance.mortal_valkey


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
