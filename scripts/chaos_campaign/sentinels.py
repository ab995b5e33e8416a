"""A Valkey with a replica and three sentinels, of which the primary dies with writes that the replica never got."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from session_bridge.embedded import EmbeddedValkey
from session_bridge.embedded.programs import valkey_program

SERVICE = "bridge"
_PASSWORD = "not a secret"  # noqa: S105  # of servers that live for a test
_QUORUM = 2
_SENTINELS = 3
_DOWN_AFTER_MS = 800
_PATIENCE = 60.0
_LOOK_SECONDS = 0.05


class ReplicatedValkey:
    """Two servers and three sentinels, for as long as the block runs; `url` leads to whoever is primary."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Each has a password, which its replica needs too: without it the replica cannot come back to its primary.
        self._servers = [EmbeddedValkey(folder / name, args=("--appendfsync", "always")) for name in ("one", "two")]
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []

    def __enter__(self) -> Self:
        for server in self._servers:
            self._start(server)
        primary, replica = self._servers
        self._of(replica).execute_command("REPLICAOF", "127.0.0.1", primary.port)
        self._until(self.in_step, "the replica does not follow")
        for number in range(_SENTINELS):
            self._start_sentinel(number, primary.port)
        self._until(self._sentinels_agree, "the sentinels do not find each other")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._sentinels:
            process.kill()
            process.wait()
        for server in self._servers:
            server.stop()

    @property
    def url(self) -> str:
        """The address that a client needs."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://:{_PASSWORD.replace(' ', '%20')}@{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> EmbeddedValkey:
        """The server that takes writes, as the sentinels say."""
        with contextlib.closing(redis.Redis(port=self._ports[0])) as sentinel:
            answer: Any = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        port = int(answer[1])
        return next(server for server in self._servers if server.port == port)

    def client(self) -> redis.Redis:
        """A client of the primary of now, and of no other."""
        return self._of(self.primary)

    def in_step(self) -> bool:
        """Whether the replica has all that the primary has."""
        server = self.primary if self._ports else self._servers[0]
        info: Any = self._of(server).info("replication")
        replica = info.get("slave0", {})
        return bool(replica.get("state") == "online" and replica["offset"] == info["master_repl_offset"])

    def part(self) -> None:
        """Cut the replica off: what is acknowledged from now on the primary alone has."""
        self._until(self.in_step, "the replica does not follow")
        primary = self.primary
        for server in self._servers:
            if server is not primary:
                self._of(server).config_set("masterauth", "wrong")
        self._of(primary).execute_command("CLIENT", "KILL", "TYPE", "replica")
        self._until(lambda: not self._replicas(primary), "the replica is still there")

    def fail_over(self) -> None:
        """Kill the primary, and return when the other is what the sentinels say."""
        lost = self.primary
        lost.kill()
        self._until(lambda: self.primary is not lost, "the sentinels choose no other primary")
        self._until(lambda: self._role(self.primary) == "master", "the other server does not take over")

    def mend(self) -> None:
        """Start the server that was killed; the sentinels make it a replica of the other."""
        primary = self.primary
        self._of(primary).config_set("masterauth", _PASSWORD)
        for server in self._servers:
            if server is not primary:
                self._start(server)
                self._of(server).execute_command("REPLICAOF", "127.0.0.1", primary.port)
        self._until(self.in_step, "the server that came back does not follow")

    def _start(self, server: EmbeddedValkey) -> None:
        server.start()
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            client.config_set("masterauth", _PASSWORD)
            client.config_set("requirepass", _PASSWORD)

    def _of(self, server: EmbeddedValkey) -> redis.Redis:
        return redis.Redis(port=server.port, password=_PASSWORD, socket_timeout=5)

    def _start_sentinel(self, number: int, primary: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        home = self._folder / f"sentinel-{number}"
        home.mkdir()
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {home}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} {_QUORUM}",
            f'sentinel auth-pass {SERVICE} "{_PASSWORD}"',
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 4000",
        ]
        file = home / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n")
        with (home / "log").open("wb") as log:
            command = [str(valkey_program()), str(file), "--sentinel"]
            self._sentinels.append(subprocess.Popen(command, stdout=log, stderr=log))  # noqa: S603
        self._ports.append(port)

    def _sentinels_agree(self) -> bool:
        for port in self._ports:
            with contextlib.closing(redis.Redis(port=port, socket_timeout=5)) as sentinel:
                try:
                    [found] = sentinel.sentinel_masters().values()
                except redis.ConnectionError:
                    return False
            if found["num-other-sentinels"] != _SENTINELS - 1 or found["num-slaves"] != 1:
                return False
        return True

    def _replicas(self, server: EmbeddedValkey) -> int:
        info: Any = self._of(server).info("replication")
        return int(info["connected_slaves"])

    def _role(self, server: EmbeddedValkey) -> str:
        info: Any = self._of(server).info("replication")
        return str(info["role"])

    def _until(self, happened: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            time.sleep(_LOOK_SECONDS)


def replicated_valkey(folder: Path) -> Iterator[ReplicatedValkey]:
    """One that stops by itself, as a fixture of pytest wants it."""
    with ReplicatedValkey(folder) as servers:
        yield servers
