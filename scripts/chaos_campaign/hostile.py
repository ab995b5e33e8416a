"""Hostile sessions against a real worker whose memory is limited: it lives, its other calls go on, no byte is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from redis import Redis
from rich.console import Console

from chaos_campaign.accounting import Kept, read_kept, unaccounted
from chaos_campaign.shapes import Session, sessions
from chaos_campaign.workers import COMMAND, Team
from session_bridge.archive.migrations import migrate
from session_bridge.contract.keys import Keys
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey

# RLIMIT_DATA: what a process may have of its own, without the code it shares. A worker at rest has about 80 MiB.
LIMIT_MIB = 1024
# Past this a process is killed, as the kernel does when a machine has no more.
KILL_MIB = 160
_KEYS = Keys()
_MEBIBYTE = 1 << 20
_SETTINGS = {
    "SESSION_BRIDGE_LEASE_SECONDS": "30",
    "SESSION_BRIDGE_SWEEP_SECONDS": "3600",
    "SESSION_BRIDGE_TTL_SECONDS": "7200",
    "SESSION_BRIDGE_MAX_ATTEMPTS": "2",
    "SESSION_BRIDGE_LOG_FORMAT": "json",
}
_PATIENCE_SECONDS = 90.0
_LOOK_SECONDS = 0.01
_AT_ONCE = 3
_PIECE = 5_000
_SAID = b'{"role": "user", "content": "beside %b", "timestamp": 1763632800}'


@dataclass(slots=True)
class HostileReport:
    """What was tried, and what is wrong; `wrong` is empty after a good run."""

    seed: int
    limit_mib: int = LIMIT_MIB
    kill_mib: int = KILL_MIB
    sessions: int = 0
    neighbours: int = 0
    fields: int = 0
    bytes: int = 0
    giants: list[str] = field(default_factory=list)
    rejected: int = 0
    dead: int = 0
    kills: int = 0
    """Workers that were killed for what they held."""
    peak_mib: int = 0
    """The most that a worker held, in memory of its own and shared, until its killer came."""
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"good": self.good, **asdict(self)}

    def show(self, console: Console) -> None:
        """Print it for people."""
        for name, value in asdict(self).items():
            if name != "wrong":
                console.print(f"{name:<12} {', '.join(value) if isinstance(value, list) else f'{value:,}'}")
        for one in self.wrong:
            console.print(f"[red]wrong[/]: {one}", markup=True, highlight=False)


@dataclass(slots=True)
class _Stage:
    """Both servers, the workers, and the report."""

    team: Team
    redis: Redis
    archive: psycopg.Connection[Any]
    report: HostileReport
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def try_all(self, hostile: list[Session], *, dead: bool = False) -> None:
        """Write sessions, each beside one that is in order, and raise AssertionError if a byte is nowhere."""
        report = self.report
        batch: dict[str, Session] = {}
        for fields in hostile:
            number = next(self.numbers)
            batch[f"CAhostile{number}"] = fields
            batch[f"CAbeside{number}"] = {b"message:1": _SAID % b"%d" % number, b"provider": b"twilio"}
            report.sessions, report.neighbours = report.sessions + 1, report.neighbours + 1
            report.fields += len(fields)
            report.bytes += sum(map(len, fields)) + sum(map(len, fields.values()))
        self._write(batch)
        others = [sid for sid in batch if sid.startswith("CAbeside")]
        # Those beside are not kept waiting until the last of the others is over.
        self._wait(others)
        self._wait(list(batch))
        kept = read_kept(self.archive, list(batch))
        for sid, fields in batch.items():
            hostile_one = sid not in others
            found = list(unaccounted(fields, kept[sid]))
            assert not found, found[0]
            assert self._state(sid) == ("dead" if hostile_one and dead else "archived"), f"{sid} is {self._state(sid)}"
            assert hostile_one or len(kept[sid].rows["call_messages"]) == 1, f"{sid} is not whole"
        self._count(list(kept.values()), dead=dead)

    def _write(self, batch: Mapping[str, Session]) -> None:
        for sid, fields in batch.items():
            items = list(fields.items())
            for start in range(0, len(items), _PIECE):
                self.redis.hset(_KEYS.session(sid), mapping=dict(items[start : start + _PIECE]))
        self.redis.zadd(_KEYS.ready, dict.fromkeys(batch, 0))
        self.redis.publish(_KEYS.wake, b"")

    def _wait(self, sids: list[str]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while left := [sid for sid in sids if self.redis.exists(_KEYS.session(sid)) or self._asked(sid)]:
            assert time.monotonic() < deadline, f"{left[0]} waits in vain"
            time.sleep(_LOOK_SECONDS)

    def _asked(self, sid: str) -> bool:
        return self.redis.zscore(_KEYS.ready, sid) is not None

    def _state(self, sid: str) -> str:
        row = self.archive.execute("SELECT state FROM call_sids WHERE call_sid = %s", (sid,)).fetchone()
        return str(row[0]) if row else "unknown"

    def _count(self, kept: list[Kept], *, dead: bool) -> None:
        self.report.dead += dead
        if not dead:
            self.report.rejected += sum(len(values) for one in kept for values in one.raw.values())


async def run_hostile(number: int, with_seed: int, progress: Callable[[str, float], None]) -> HostileReport:
    """Try so many drawn batches of sessions, then giants, then one that kills its worker."""
    report = HostileReport(with_seed)
    with tempfile.TemporaryDirectory(prefix="session-bridge-hostile-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o711)  # noqa: ASYNC240  # once; as root, PostgreSQL runs as another user
        async with _stage(home, report) as stage:
            await asyncio.to_thread(_try_drawn, stage, number, progress)
            for title, fields in giants():
                progress(title, 1)
                await _note(stage, title, fields)
        (home / "killing").mkdir()
        async with _stage(home / "killing", report, SESSION_BRIDGE_LEASE_SECONDS="10") as stage:
            progress("a call that kills its worker", 1)
            killer = asyncio.create_task(_kill_the_greedy(stage))
            await _note(stage, "kills its worker", dict(killing()), dead=True)
            killer.cancel()
            if not report.kills:
                report.wrong.append("no worker was killed by a call that is larger than its memory")
    return report


async def _note(stage: _Stage, title: str, fields: Session, *, dead: bool = False) -> None:
    stage.report.giants.append(title)
    try:
        await asyncio.to_thread(stage.try_all, [fields], dead=dead)
    except AssertionError as error:
        stage.report.wrong.append(f"{title}: {error}")


def _try_drawn(stage: _Stage, number: int, progress: Callable[[str, float], None]) -> None:
    tried = itertools.count(1)

    @seed(stage.report.seed)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        # Each try goes through a whole deployment: what is found is one field, which needs no shrinking.
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.lists(sessions(), min_size=1, max_size=_AT_ONCE))
    def attempt(hostile: list[Session]) -> None:
        progress("drawn sessions", min(1.0, next(tried) / number))
        stage.try_all(hostile)

    try:
        attempt()
    except Exception as error:  # noqa: BLE001  # whatever Hypothesis found, it belongs in the report
        stage.report.wrong.append(f"{type(error).__name__}: {error}")


@asynccontextmanager
async def _stage(home: Path, report: HostileReport, **more: str) -> AsyncIterator[_Stage]:
    (home / "workers").mkdir()
    async with contextlib.AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(home / "postgres", settings={"fsync": "off"})
        valkey = EmbeddedValkey(home / "valkey", args=("--save", "", "--appendonly", "no"))
        for server in (postgres, valkey):
            await asyncio.to_thread(server.start)
            stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(migrate, postgres.url)
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_BRIDGE_")}
        environment |= _SETTINGS | more | {"REDIS_URL": valkey.url, "DATABASE_URL": postgres.url}
        limited = ("sh", "-c", f'ulimit -d {LIMIT_MIB * 1024}; exec "$0" worker', str(COMMAND))
        team = Team(home / "workers", environment, command=limited)
        stack.callback(team.abandon)
        archive = stack.enter_context(psycopg.connect(postgres.url, autocommit=True))
        redis = stack.enter_context(contextlib.closing(Redis.from_url(valkey.url)))
        team.employ(1)
        yield _Stage(team, redis, archive, report)
        for process in team.running:
            report.peak_mib = max(report.peak_mib, _held_mib(process.pid, "VmHWM"))
        await team.dismiss()
        report.wrong += team.surprises
        said = {line["event"] for line in team.log()}
        report.wrong += [f"a worker said {event}" for event in said & {"drain.failed"}]


async def _kill_the_greedy(stage: _Stage) -> None:
    """Do what the kernel does when a machine has no memory left."""
    while True:
        for process in stage.team.running:
            if _held_mib(process.pid, "VmRSS") > KILL_MIB:
                stage.team.tell(process, signal.SIGKILL)
                stage.report.kills += 1
        await asyncio.sleep(_LOOK_SECONDS)


def _held_mib(pid: int, what: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) // 1024
    return 0


def giants() -> Iterator[tuple[str, Session]]:
    """Sessions that are large in one way each, and that a worker of `LIMIT_MIB` is to bear."""
    yield "a field of 64 MB", {b"message:1": bytes(range(256)) * (_MEBIBYTE // 4), b"own": b"kept"}
    yield "64 MB of JSON in one field", {b"collected_data": b'{"a": [%b0]}' % (b'"\\u0141",' * (_MEBIBYTE * 7))}
    yield "20,000 fields nobody knows", {b"own%d" % one: b"\xff%d" % one for one in range(20_000)}
    yield (
        "30,000 events",
        {
            b"message:%d" % one: json.dumps({"role": "user", "content": f"words {one}"}).encode()
            for one in range(30_000)
        },
    )
    yield "100,000 empty events", {b"tool:%d" % one: b"{}" for one in range(100_000)}
    yield "nested 1,000,000 deep", {b"metadata": b"[" * _MEBIBYTE, b"tool:1": b'{"a":' * _MEBIBYTE, b"own": b"kept"}
    yield "a number of 4,000,000 digits", {b"metric:1": b'{"metric_type":"m","value":%b}' % (b"7" * 4_000_000)}
    yield (
        "an object of 200,000 names",
        {b"metadata": b"{%b}" % b",".join(b'"name%d":%d' % (one, one) for one in range(200_000))},
    )


def killing() -> Iterator[tuple[bytes, bytes]]:
    """A session no worker can hold within `KILL_MIB`."""
    for number in range(30_000):
        yield b"message:%d" % number, b'{"role": "user", "content": "%b %d"}' % (b"so much " * 120, number)
