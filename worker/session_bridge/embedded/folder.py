"""A server's data folder, and the lock that says whether a server runs on it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from session_bridge.embedded.errors import DataFolderInUseError, EmbeddedServerError

PATIENCE = 3.0  # seconds: a server whose starter was killed a moment ago is still on its way out
PAUSE = 0.02  # seconds between two looks


def in_use(path: Path, keeper: str) -> DataFolderInUseError:
    """The error that says which process has the folder."""
    return DataFolderInUseError(
        f"{path} is in use by another running server (process {keeper}); stop that one, or name another folder"
    )


class DataFolder:
    """A folder that one server at a time may use.

    The lock is on an open file that every process of the server inherits. It is therefore free when the last of them
    has ended and not before, also after a SIGKILL; and there is nothing to clean up and no process id to misjudge.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "server.log"
        self._lock = path / "lock"

    def create(self) -> None:
        """Make the folder if it is not there, closed to other users."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"The folder {self.path} cannot be made ({error.strerror}); name another"
            ) from error

    def acquire(self, patience: float = PATIENCE) -> int:
        """Take the lock; the descriptor that holds it is the caller's to hand on and to close."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"{self._lock} cannot be opened ({error.strerror}); name a folder of your own"
            ) from error
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(PAUSE)
                    continue
                keeper = os.pread(descriptor, 32, 0).decode() or "not known yet"
                os.close(descriptor)
                raise in_use(self.path, keeper) from None
            os.ftruncate(descriptor, 0)
            return descriptor

    def wait_until_unused(self, patience: float) -> None:
        """Return when no process uses the folder any more."""
        os.close(self.acquire(patience))

    def open_log(self) -> int:
        """A descriptor to append to the log with; errors in it may quote data, so it is nobody else's."""
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def log_size(self) -> int:
        """The length of the log in bytes, to be given to `log_since`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def log_since(self, position: int) -> str:
        """What was logged after a position."""
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace").strip()
