"""What the embedded servers have in common: a folder, a port, a beginning and an end."""

from __future__ import annotations

import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from session_bridge.embedded.account import Account
from session_bridge.embedded.errors import EmbeddedServerError, PortTakenError
from session_bridge.embedded.folder import DataFolder
from session_bridge.embedded.process import ServerProcess

HOST = "127.0.0.1"
START_TIMEOUT = 120.0  # seconds: a server that was killed replays its log first
STOP_TIMEOUT = 30.0  # seconds
PAUSE = 0.01  # seconds between two looks
TRIES = 5  # another program may take a free port between the moment it is found and the server's start
LINES_SHOWN = 5


class EmbeddedServer(ABC):
    """One server, started by this process and ended with it.

    Every method blocks; none takes longer than a start after a crash. Not for use by two threads at once.
    """

    name: ClassVar[str]
    end_signal: ClassVar[signal.Signals]

    def __init__(self, data_dir: str | os.PathLike[str], *, port: int | None = None) -> None:
        self._folder = DataFolder(Path(data_dir).absolute())
        self._port = port
        self._port_was_given = port is not None
        self._process: ServerProcess | None = None

    @property
    def data_dir(self) -> Path:
        """The folder that holds the server's data and its log, `server.log`."""
        return self._folder.path

    @property
    def port(self) -> int:
        """The port on 127.0.0.1: the one given, else the free one found at the first start."""
        if self._port is None:
            raise EmbeddedServerError(f"{self.name} has no port before its first start; call start()")
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None or self._process.ended():
            raise EmbeddedServerError(f"{self.name} is not running; call start()")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and not self._process.ended()

    def start(self) -> Self:
        """Start the server and return when it answers; a server that runs is left as it is.

        Raises:
            DataFolderInUseError: another running server has the folder.
            MissingExtraError: the machine has no such server.
            EmbeddedServerError: it did not start; the message ends with what it logged.
        """
        if self.running:
            return self
        self._folder.create()
        lock = self._folder.acquire()
        try:
            account = self._prepare(lock)
            for attempt in range(1, TRIES + 1):
                if self._port is None:
                    self._port = find_free_port()
                try:
                    self._launch(lock, account)
                    break
                except PortTakenError:
                    if self._port_was_given or attempt == TRIES:
                        raise
                    self._port = None
        finally:
            # The server has the lock now, and alone: it is free when the server has ended.
            os.close(lock)
        self._port_was_given = True  # a restart is on the same port
        return self

    def stop(self) -> None:
        """Stop the server in an orderly way, and return when all its processes have ended."""
        self._end(self.end_signal)

    def kill(self) -> None:
        """Kill the server as a crash would, and return when all its processes have ended."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop the server if it runs, and start it on the same data and port."""
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """The server's address, as a client library takes it."""

    @abstractmethod
    def _prepare(self, lock: int) -> Account:
        """Make the data ready for a start, with `lock` open in what works on them, and say who the server runs as."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that runs the server in the foreground."""

    @abstractmethod
    def _answers(self, pid: int) -> bool:
        """Whether the server of this process id, and no other, takes connections."""

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _launch(self, lock: int, account: Account) -> None:
        logged = self._folder.log_size()
        log = self._folder.open_log()
        account.own(log)
        account.own(lock)
        try:
            self._process = ServerProcess(
                self._command(),
                end_signal=self.end_signal,
                log=log,
                lock=lock,
                account=account,
                environment=self._environment(),
            )
        finally:
            os.close(log)
        os.pwrite(lock, str(self._process.pid).encode(), 0)
        try:
            self._wait_until_it_answers(self._process, logged)
        except BaseException:
            self._process.end()
            self._process = None
            raise

    def _wait_until_it_answers(self, process: ServerProcess, logged: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers(process.pid):
            ended = process.ended()
            if not ended and time.monotonic() < deadline:
                time.sleep(PAUSE)
                continue
            said = self._folder.log_since(logged)
            if "Address already in use" in said:
                raise PortTakenError(f"Another program listens on {HOST}:{self.port}; stop it, or choose another port")
            what = "ended as it started" if ended else f"did not answer within {START_TIMEOUT:.0f} s"
            last = "\n".join(said.splitlines()[-LINES_SHOWN:])
            raise EmbeddedServerError(f"{self.name} {what}; its log, {self._folder.log}, ends with:\n{last}")

    def _end(self, with_signal: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.end(with_signal, STOP_TIMEOUT)
        self._process = None
        self._folder.wait_until_unused(STOP_TIMEOUT)


def find_free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
