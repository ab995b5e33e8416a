"""Valkey on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import redis

from session_bridge.embedded.account import Account
from session_bridge.embedded.programs import valkey_program
from session_bridge.embedded.server import HOST, EmbeddedServer

# What a live session needs: it survives a restart of the server, and is never evicted to make room.
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")


class EmbeddedValkey(EmbeddedServer):
    """A Valkey whose data outlive it.

    Args:
        data_dir: the folder for its data; made if it is missing, and used again by the next start.
        port: a port on 127.0.0.1; without one, a free one is found.
        args: further arguments of `valkey-server`, as `("--appendonly", "no")`; they override the durable defaults.
    """

    name = "Valkey"
    end_signal = signal.SIGTERM

    def __init__(self, data_dir: str | os.PathLike[str], *, port: int | None = None, args: Sequence[str] = ()) -> None:
        super().__init__(data_dir, port=port)
        self._args = tuple(args)

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def _prepare(self, lock: int) -> Account:  # noqa: ARG002 - nothing to prepare
        return Account()

    def _command(self) -> list[str]:
        address = ("--bind", HOST, "--port", str(self.port))
        return [str(valkey_program()), *address, "--dir", str(self.data_dir), *DURABLE, *self._args]

    def _answers(self, pid: int) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port, socket_timeout=1) as client:
                said = client.info()
        except redis.RedisError:
            return False
        assert isinstance(said, dict)
        return said.get("process_id") == pid and said.get("loading") == 0
