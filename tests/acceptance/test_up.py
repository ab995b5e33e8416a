"""`session-bridge up` and `play`, as a stranger runs them: in an empty folder, with nothing set."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from deployments import free_port
from session_bridge.simulate import live_fields, script

PROGRAM = Path(sys.executable).with_name("session-bridge")
PATIENCE = 90.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that PostgreSQL's user may enter too."""
    with tempfile.TemporaryDirectory(prefix="session-bridge-up-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def environment(folder: Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """This environment without its settings, in which Python's warnings are seen, but for those that are arq's."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"SESSION_BRIDGE_|.*_URL$", name)}
    seen = "default,ignore::DeprecationWarning:arq.worker"  # it calls redis-py by names that are old
    return kept | {"PYTHONWARNINGS": seen, "SESSION_BRIDGE_SPOOL_DIR": str(folder / "spool")} | dict(addresses)


def run(folder: Path, *arguments: str, **addresses: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env=environment(folder, addresses),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done


class Running:
    """`session-bridge` as a process that goes on."""

    def __init__(self, folder: Path, *arguments: str, **addresses: str) -> None:
        self._said, self._complained = folder / "said.txt", folder / "complained.txt"
        with self._said.open("w") as out, self._complained.open("w") as err:
            self.process = subprocess.Popen(
                [PROGRAM, *arguments], cwd=folder, env=environment(folder, addresses), stdout=out, stderr=err
            )

    def wait_for(self, words: str) -> str:
        self.until(lambda: words in self.said or self.process.poll() is not None)
        assert words in self.said, self.complaints
        return self.said

    def end(self, with_signal: signal.Signals) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def complaints(self) -> str:
        return self._complained.read_text()

    @staticmethod
    def until(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    """Starts commands, and ends those that the test left running."""
    started: list[Running] = []

    def begin(*arguments: str, **addresses: str) -> Running:
        started.append(Running(folder, *arguments, **addresses))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def servers_in(folder: Path) -> list[str]:
    """Which servers still have a process on the data in a folder: each of them holds the lock on it."""
    running = []
    for lock in (folder / ".session-bridge").glob("*/lock"):
        with lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                running.append(lock.parent.name)
    return sorted(running)


# -- on servers of its own --------------------------------------------------------------------------------------------


def test_up_archives_every_call_it_plays_and_ends(folder: Path) -> None:
    done = run(folder, "up", "--play", "5", "--exit", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert "5 of 5 calls archived" in done.stdout
    assert re.search(r"^call_sessions +5$", done.stdout, re.MULTILINE)
    assert re.search(r"median [\d,]+ ms, p99 [\d,]+ ms", done.stdout)
    assert re.search(r"^  0:0\d  \S+ +\S", done.stdout, re.MULTILINE), "no transcript"
    assert "call_session_rejects" not in done.stdout
    assert done.stderr == ""
    assert servers_in(folder) == []

    again = run(folder, "up", "--play", "5", "--exit", "--seed", "7")
    assert again.returncode == 0, again.stderr
    assert "archive up to date" in again.stdout
    assert re.search(r"^call_sessions +5$", again.stdout, re.MULTILINE), "the same conversations are calls of their own"


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_up_and_its_servers(
    folder: Path, start: Callable[..., Running], with_signal: signal.Signals
) -> None:
    up = start("up")
    up.wait_for("# the archive")
    assert servers_in(folder) == ["postgres", "valkey"]
    second = run(folder, "up", "--exit")
    assert second.returncode == 1
    (line,) = second.stderr.splitlines()
    assert "is in use by another running server" in line
    assert up.end(with_signal) == 0
    assert up.complaints == "stopped\n"
    assert servers_in(folder) == []


def test_an_interrupt_while_it_starts_leaves_nothing(folder: Path, start: Callable[..., Running]) -> None:
    up = start("up", "--exit")
    # Its folder is made just before initdb, which takes its time.
    Running.until((folder / ".session-bridge" / "postgres").exists)
    assert up.end(signal.SIGINT) != 0
    assert "Traceback" not in up.complaints
    # A server that was on its way up ends a moment after the process that started it.
    Running.until(lambda: servers_in(folder) == [])


# -- on servers that are there ----------------------------------------------------------------------------------------


def test_up_runs_on_the_servers_it_is_given(folder: Path, empty_database_url: str, redis_url: str) -> None:
    addresses = {"REDIS_URL": redis_url, "DATABASE_URL": empty_database_url}
    # One port for both workers: the first has it.
    given = addresses | {"SESSION_BRIDGE_HEALTH_PORT": str(free_port())}
    done = run(folder, "up", "--play", "3", "--exit", "--workers", "2", **given)
    assert done.returncode == 0, done.stderr
    assert "archive migrated" in done.stdout
    assert "3 of 3 calls archived" in done.stdout
    assert not (folder / ".session-bridge").exists()
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM call_sessions").fetchone() == (3,)


def test_play_says_as_json_what_a_worker_made_of_its_calls(
    folder: Path, start: Callable[..., Running], database_url: str, redis_url: str
) -> None:
    addresses = {"REDIS_URL": redis_url, "DATABASE_URL": database_url}
    start("worker", **addresses)
    done = run(folder, "play", "4", "--seed", "11", "--json", **addresses)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["calls"], report["archived"], report["rows"]["call_sessions"]) == (4, 4, 4)
    assert sum(report["endings"].values()) == 4
    assert report["transcript"]["lines"]


def test_play_without_a_worker_says_so(folder: Path, database_url: str, redis_url: str) -> None:
    done = run(folder, "play", "2", REDIS_URL=redis_url, DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "no worker seems to run" in done.stderr


@pytest.mark.parametrize("command", [("up",), ("play", "2")])
def test_one_address_without_the_other_is_refused(folder: Path, command: tuple[str, ...]) -> None:
    done = run(folder, *command, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "DATABASE_URL is not" in line
    assert done.stdout == ""


def test_play_on_servers_that_are_away_says_which(folder: Path, database_url: str) -> None:
    done = run(folder, "play", "2", REDIS_URL="redis://127.0.0.1:1/0", DATABASE_URL=database_url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "127.0.0.1:1" in line


# -- the calls themselves ---------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_call() -> None:
    assert script(5) == script(5)
    assert script(5).call_sid != script(6).call_sid


def test_a_call_is_between_fifty_and_three_hundred_rows() -> None:
    began = datetime(2026, 2, 3, 4, 5, tzinfo=UTC)
    sizes = []
    for seed in range(200):
        fields = live_fields(script(seed), began)
        chunks = sum(len(json.loads(text)["chunks"]) for name, text in fields.items() if name.startswith("rag:"))
        sizes.append(chunks + sum(":" in name for name in fields))
    assert max(sizes) < 300
    assert 100 <= sum(sizes) / len(sizes) <= 190
