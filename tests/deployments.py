"""One deployment of the bridge for each test: real servers, the real command, and a proxy to aim faults with."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import pytest
import redis
from psycopg import sql

from session_bridge.archive.migrations import migrate
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey

COMMAND = Path(sys.executable).with_name("session-bridge")
PATIENCE = 60.0  # seconds: far more than anything here takes
NOW = "0"  # a due time that has passed
# A column that tells a call's row on its way to the archive from all others, whichever way it is written.
CALL_ROW = '"first_archived_at"'

# A call's entry in the book: whoever holds it uncommitted keeps every drain of the call waiting.
ENTRY = """\
INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
VALUES ('{}', gen_random_uuid(), 'live', now(), now(), now())"""

# One sweep at the start and no more, unless a test asks for more.
QUIET = {"TTL_SECONDS": "7200", "SWEEP_SECONDS": "3600", "LOG_FORMAT": "json", "LOG_LEVEL": "debug"}

databases = itertools.count(1)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(happened: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
    """Wait until `happened` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < deadline, what or "it did not happen"
        time.sleep(0.01)
    return value


async def eventually(happened: Callable[[], Any], what: str = "") -> Any:
    """`until` in an event loop, which goes on meanwhile; `happened` may be asynchronous."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = happened()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, what or "it did not happen"
        await asyncio.sleep(0.01)


class Worker:
    """A running `session-bridge worker`; `log` has its lines as they come."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "worker"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.decode().rstrip())

    @property
    def text(self) -> str:
        """All it has printed."""
        return "\n".join(self.lines)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.log if line["event"] == event]

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait for an event's first log line."""

        def found() -> list[dict[str, Any]]:
            assert self.running or self.said(event), self.text
            return self.said(event)

        line: dict[str, Any] = until(found, f"no {event} in:\n{self.text}")[0]
        return line

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.ended()

    def terminate(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end."""
        self.process.send_signal(with_signal)

    def ended(self) -> int:
        """Wait for its end, and return its exit status."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR2)
            time.sleep(2)
            raise AssertionError(f"it did not end:\n{self.text}") from None
        self._reader.join(PATIENCE)
        return status

    def stop(self) -> None:
        """End it in an orderly way; it must have run until now without a traceback."""
        self.terminate()
        assert self.ended() == 0, self.text
        assert "Traceback" not in self.text, self.text


class Deployment:
    """A Redis and a PostgreSQL that belong together, with what a test does from the outside."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.redis_url, self.database_url = redis_url, database_url
        self.settings: dict[str, str] = dict(QUIET)
        self.redis: Any = redis.Redis.from_url(redis_url, decode_responses=True, encoding_errors="surrogateescape")
        self.raw: Any = redis.Redis.from_url(redis_url)
        self.workers: list[Worker] = []

    # -- processes --------------------------------------------------------------------------------------------------

    def environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        """The environment of a command, in which nothing of ours is set but what the test says."""
        kept = {name: value for name, value in os.environ.items() if not re.match(r"SESSION_BRIDGE_|.*_URL$", name)}
        kept |= {"REDIS_URL": self.redis_url, "DATABASE_URL": self.database_url}
        for name, value in {**self.settings, **settings}.items():
            full = name if name in ("REDIS_URL", "DATABASE_URL") else f"SESSION_BRIDGE_{name}"
            kept.pop(full, None)
            if value is not None:
                kept[full] = str(value)
        return kept

    def begin_worker(self, **settings: object) -> Worker:
        """Start a worker, and do not wait for it."""
        self.workers.append(Worker(self.environment(settings)))
        return self.workers[-1]

    def worker(self, **settings: object) -> Worker:
        """Start a worker, and wait until it works and its first sweep is over."""
        self.redis.delete("session-bridge:sweep")
        worker = self.begin_worker(**settings)
        worker.wait_for("worker.started")
        if "NAMESPACE" not in settings:
            until(lambda: self.redis.exists("session-bridge:sweep"), "its first sweep did not end")
        return worker

    def run(self, *arguments: str, stdin: str | None = None, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [COMMAND, *arguments],
            env=self.environment(settings),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def sweep(self, **settings: Any) -> dict[str, Any]:
        """Sweep once through everything, and return the report."""
        done = self.run("sweep", "--json", **settings)
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    # -- the live side ----------------------------------------------------------------------------------------------

    def write(self, sid: str, fields: Mapping[str, object] | None = None, *, ttl: int = 3600) -> None:
        """Write a session as any language would: HSET and EXPIRE."""
        self.redis.hset(f"session:{sid}", mapping=dict(fields or call_fields(sid)))
        self.redis.expire(f"session:{sid}", ttl)

    def ask(self, *sids: str) -> None:
        """Ask for drains as any language would: ZADD."""
        self.redis.zadd("session-bridge:ready", {sid: str(int(time.time() * 1000)) for sid in sids})

    def fields(self, sid: str) -> dict[str, str]:
        found: dict[str, str] = self.redis.hgetall(f"session:{sid}")
        return found

    def asked(self, sid: str) -> float | None:
        score: float | None = self.redis.zscore("session-bridge:ready", sid)
        return score

    def is_gone(self, sid: str) -> bool:
        """Whether nothing of a call is in Redis any more, nor anything asked for."""
        return not self.redis.exists(f"session:{sid}") and self.asked(sid) is None

    # -- the archive ------------------------------------------------------------------------------------------------

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: object) -> Any:
        [[value]] = self.rows(query, *parameters)
        return value

    def call(self, sid: str, generation: int = 1) -> dict[str, Any]:
        """The row of a call, or nothing."""
        with psycopg.connect(self.database_url, row_factory=psycopg.rows.dict_row) as connection:
            query = "SELECT * FROM call_sessions WHERE call_sid = %s AND generation = %s"
            return connection.execute(query, (sid, generation)).fetchone() or {}

    def state(self, sid: str) -> str | None:
        """Where a call stands in the book."""
        rows = self.rows("SELECT state FROM call_sids WHERE call_sid = %s ORDER BY generation DESC LIMIT 1", sid)
        return str(rows[0][0]) if rows else None

    def said(self, sid: str, generation: int = 1) -> list[str]:
        """What was said in a call, in order."""
        rows = self.rows(
            "SELECT content FROM call_messages WHERE session_id = "
            "(SELECT session_id FROM call_sids WHERE call_sid = %s AND generation = %s) ORDER BY sequence",
            sid,
            generation,
        )
        return [content for (content,) in rows]

    def until_archived(self, *sids: str, seconds: float = PATIENCE) -> None:
        """Wait until these calls are archived and gone from Redis."""
        until(lambda: all(self.is_gone(sid) for sid in sids), "a call was not released", seconds)
        for sid in sids:
            assert self.state(sid) == "archived", sid

    def drain(self, sid: str, fields: Mapping[str, object]) -> dict[str, Any]:
        """Write and ask in one transaction, that no sweep may ask between; wait for a worker, and return the row."""
        with self.redis.pipeline() as together:
            together.hset(f"session:{sid}", mapping=dict(fields))
            together.zadd("session-bridge:ready", {sid: str(int(time.time() * 1000))})
            together.execute()
        self.until_archived(sid)
        return self.call(sid)

    def close(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.kill()
        self.redis.close()
        self.raw.close()


def call_fields(sid: str, turns: int = 2) -> dict[str, str]:
    """A short call as a writer in any language leaves it."""
    fields = {"provider": "twilio", "status": "in-progress", "started_at": "2026-11-20T10:00:00Z", "agent_name": "Ann"}
    for turn in range(turns):
        message = {"role": ("user", "assistant")[turn % 2], "content": f"{sid} says {turn}", "turn_number": turn}
        fields[f"message:{turn}"] = json.dumps(message | {"timestamp": 1_763_632_800 + turn})
    return fields


@pytest.fixture(name="call_fields")
def call_fields_() -> Callable[..., dict[str, str]]:
    return call_fields


@pytest.fixture(name="until")
def until_() -> Callable[..., Any]:
    return until


@pytest.fixture
def deployment(redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment on the run's common servers, which stay up."""
    with contextlib.closing(Deployment(redis_url, database_url)) as opened:
        yield opened


# -- servers that may be killed -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def all_mortal_postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(servers_folder / "mortal-postgres", settings={"fsync": "off"}) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE template_of_mortals")
        migrate(server.url_of("template_of_mortals"))
        yield server


@pytest.fixture
def mortal_postgres(all_mortal_postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """A PostgreSQL that a test may kill and restart; what was committed stays."""
    return all_mortal_postgres.start()


@pytest.fixture
def mortal_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey that a test may kill and restart; what was acknowledged stays."""
    with EmbeddedValkey(tmp_path / "valkey", args=("--appendfsync", "always")) as server:
        yield server


@pytest.fixture
def mortal_deployment(mortal_postgres: EmbeddedPostgres, mortal_valkey: EmbeddedValkey) -> Iterator[Deployment]:
    """A deployment whose servers a test may kill."""
    name = f"mortal_{next(databases)}"
    with psycopg.connect(mortal_postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template_of_mortals").format(sql.Identifier(name)))
    with contextlib.closing(Deployment(mortal_valkey.url, mortal_postgres.url_of(name))) as opened:
        yield opened
