"""Where recordings wait on disk while Redis is away: files of one process, found again by the next if it dies."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from session_bridge.recorder.entries import Entry, Line, dump, load
from session_bridge.recorder.moments import MOMENTS

_logger = logging.getLogger("session_bridge.recorder")

_SUFFIX = ".jsonl"
_LOCK = "lock"


def default_directory() -> Path:
    """`$XDG_STATE_HOME/session-bridge/spool`, or the same under `~/.local/state`, or in the temporary directory."""
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state, "session-bridge", "spool")
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises where there is no home
    if home not in {"~", "/"} and os.access(home, os.W_OK):
        return Path(home, ".local", "state", "session-bridge", "spool")
    return Path(tempfile.gettempdir(), f"session-bridge-{os.geteuid()}", "spool")


def home_of(directory: Path, address: str, prefix: str, namespace: str) -> Path:
    """The folder, below `directory`, of what is recorded for one Redis database, prefix and namespace."""
    digest = hashlib.sha256(f"{address}\0{prefix}\0{namespace}".encode()).hexdigest()[:16]
    readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in namespace)[:64]
    return directory / f"{readable}-{digest}"


class Spool:
    """The files of one writer, in a folder of its own below `home`, locked for as long as the writer lives.

    All methods block, and raise OSError where the disk refuses. Transcripts are private: folders are made with mode
    0700 and files with 0600.
    """

    def __init__(self, home: Path, folder: Path | None = None, lock: int | None = None) -> None:
        self.home = home
        self._folder = folder
        self._lock = lock
        self._guard = threading.Lock()
        self.waiting = deque(self._files())
        """For an adopted spool: the files its dead writer left, oldest first."""

    def write(self, entries: Iterable[Entry]) -> Path:
        """Store `entries` in a new file that comes after all earlier ones; once this returns they are on the disk."""
        with self._guard:
            folder = self._own_folder()
            return _store(folder, _SUFFIX, (dump(entry) for entry in entries))

    def read(self, path: Path) -> list[Entry]:
        """The entries of a file. Damaged lines are set aside, said in the log, and left out.

        Raises OSError if the file cannot be read at all; it is then kept under a name that nothing replays.
        """
        lines: dict[str, Line] = {}
        entries: list[Entry] = []
        damaged: list[bytes] = []
        try:
            content = path.read_bytes()
        except OSError:
            with suppress(OSError):
                path.rename(self.home / f"{path.stem}.bad")
            raise
        for text in content.removesuffix(b"\n").split(b"\n"):
            try:
                entries.append(load(text, lines))
            except (ValueError, RecursionError):
                damaged.append(text)
        if damaged:
            kept = _store(self.home, ".bad", damaged)
            _logger.error(
                "%d damaged lines of a spool file could not be replayed; they are kept in %s", len(damaged), kept
            )
        return entries

    def remove(self, path: Path) -> None:
        """Forget a file whose entries Redis has acknowledged."""
        path.unlink(missing_ok=True)

    def set_aside(self, entries: Iterable[Entry]) -> Path:
        """Keep for a human being what Redis refuses to take; nothing replays it."""
        _make_private(self.home)
        return _store(self.home, ".bad", (dump(entry) for entry in entries))

    def adopt(self) -> list[Spool]:
        """The spools that dead writers left, now locked by us."""
        try:
            folders = sorted(path for path in self.home.iterdir() if path.name[0] != "." and _is_our_folder(path))
        except FileNotFoundError:
            return []
        adopted = []
        for folder in folders:
            lock = _try_lock(folder)
            if lock is not None:
                adopted.append(Spool(self.home, folder, lock))
        return adopted

    def close(self) -> None:
        """Give the lock back, and remove the folder if nothing waits in it."""
        with self._guard:
            folder, lock = self._folder, self._lock
            self._folder = self._lock = None
            if folder is None or lock is None:
                return
            try:
                if not any(path.suffix == _SUFFIX for path in folder.iterdir()):
                    for path in folder.iterdir():
                        path.unlink()
                    folder.rmdir()
            finally:
                os.close(lock)

    def forget(self) -> None:
        """Leave everything to the process that this one was forked from."""
        if self._lock is not None:
            os.close(self._lock)
        self._folder = self._lock = None
        self._guard = threading.Lock()

    def _files(self) -> list[Path]:
        if self._folder is None:
            return []
        return sorted(path for path in self._folder.iterdir() if path.suffix == _SUFFIX)

    def _own_folder(self) -> Path:
        if self._folder is None:
            _make_private(self.home)
            # Under a name that nobody adopts, until it is locked.
            folder = self.home / MOMENTS.stamp()[1]
            hidden = folder.with_name(f".{folder.name}")
            hidden.mkdir(mode=0o700)
            lock = None
            try:
                lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                hidden.rename(folder)
                _sync(self.home)
            except BaseException:
                for made in (hidden, folder):
                    shutil.rmtree(made, ignore_errors=True)
                if lock is not None:
                    os.close(lock)
                raise
            self._folder, self._lock = folder, lock
        return self._folder


def _store(folder: Path, suffix: str, lines: Iterable[bytes]) -> Path:
    path = folder / f"{MOMENTS.stamp()[1]}{suffix}"
    unfinished = path.with_suffix(".tmp")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a Path cannot be opened with a mode of its own
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(folder)
    return path


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(folder: Path) -> None:
    """Make `folder`, and refuse one that somebody else could have put there before us."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user; give spool_dir a folder of your own")


def _is_our_folder(path: Path) -> bool:
    """Whether this is a folder, not a link to one, that a process of our own user made."""
    try:
        status = path.lstat()
    except OSError:  # its writer has just removed it
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _try_lock(folder: Path) -> int | None:
    path = folder / _LOCK
    try:
        lock = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have finished and removed it while we waited to look.
        if path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except OSError:
        pass
    os.close(lock)
    return None
