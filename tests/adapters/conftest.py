"""An environment that has what the adapters attach to: made once, beside the project's own, for these tests alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
# Both packages import half a library before their first line runs.
SECONDS = 120


@pytest.fixture(scope="session")
def adapters_python() -> Path:
    """The Python of that environment."""
    maker = [sys.executable, str(CHECKOUT / "scripts" / "environment.py"), "adapters"]
    done = subprocess.run(maker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip()) / "python"


@pytest.fixture
def play(adapters_python: Path, redis_url: str, tmp_path: Path) -> Callable[[str, str], str]:
    """Runs a script of this folder with a call SID, against the test's Redis; returns what it prints."""

    def run(script: str, sid: str) -> str:
        done = subprocess.run(
            [adapters_python, HERE / script, sid],
            env=os.environ | {"REDIS_URL": redis_url, "SESSION_BRIDGE_SPOOL_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
