"""PostgreSQL on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from session_bridge.embedded.account import Account, choose_account
from session_bridge.embedded.errors import EmbeddedServerError
from session_bridge.embedded.folder import in_use
from session_bridge.embedded.programs import postgres_programs, postgres_version
from session_bridge.embedded.server import HOST, EmbeddedServer

SUPERUSER = "postgres"
HAS_BUILTIN_LOCALES = 17  # the first version with them

# The lines of postmaster.pid: https://www.postgresql.org/docs/18/storage-file-layout.html
PID_LINE, PORT_LINE, HOST_LINE, STATE_LINE = 0, 3, 5, 7


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL whose data outlives it.

    Args:
        data_dir: the folder for its data; made if it is missing, and used again by the next start.
        port: a port on 127.0.0.1; without one, a free one is found.
        settings: parameters of `postgresql.conf`, as `{"fsync": "off"}`; the defaults are PostgreSQL's own, so what is
            committed is on disk.
        bindir: the folder of `postgres` and `initdb`; without one, they are looked for.
    """

    name = "PostgreSQL"
    end_signal = signal.SIGINT  # "fast": connections are closed, the data are put in order

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        bindir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(data_dir, port=port)
        self._settings = dict(settings or {})
        self._bindir = None if bindir is None else Path(bindir)
        self._cluster = self.data_dir / "cluster"

    @property
    def url(self) -> str:
        """The address of the database `postgres`, as libpq takes it."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The address of one database, as libpq takes it."""
        return f"postgresql://{SUPERUSER}@{HOST}:{self.port}/{database}"

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server, and return when all its processes have ended.

        `fast` ends what runs and writes everything to its place; `immediate` leaves that to the next start, as after a
        loss of power.
        """
        self._end(signal.SIGQUIT if mode == "immediate" else self.end_signal)

    def _prepare(self, lock: int) -> Account:
        programs = self._programs()
        version = postgres_version(programs)
        account = choose_account(programs, self.data_dir, self._cluster)
        if self._cluster.exists():
            self._check_version(version)
            self._forget_dead_postmaster()
        else:
            self._initialise(programs, version, account, lock)
        return account

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",  # a socket's path is limited to about 100 bytes, and it stays after a kill
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
        }
        assignments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs() / "postgres"), "-D", str(self._cluster), *assignments]

    def _answers(self, pid: int) -> bool:
        lines = self._postmaster_lines()
        return len(lines) > STATE_LINE and lines[PID_LINE] == str(pid) and lines[STATE_LINE] == "ready"

    def _environment(self) -> dict[str, str]:
        # The starter's locale and its PGDATA, PGOPTIONS and the like are not about this server.
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PG"))}
        return ours | {"LC_ALL": "C"}

    def _programs(self) -> Path:
        if self._bindir is None:
            self._bindir = postgres_programs()
        return self._bindir

    def _initialise(self, programs: Path, version: int, account: Account, lock: int) -> None:
        # A cluster appears under its name when it is whole: one left half made by an interruption is thrown away.
        unfinished = self.data_dir / "cluster.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        account.own(unfinished)
        # Without ICU and whatever the machine's locales are, text sorts the same everywhere.
        locale = ["--locale=C"]
        if version >= HAS_BUILTIN_LOCALES:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [
            *account.naming(),
            str(programs / "initdb"),
            "-D",
            str(unfinished),
            "-U",
            SUPERUSER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            *locale,
        ]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        # It holds the lock too: if we are killed now, it goes on for a moment.
        initdb = account.popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            inherited=(lock,),
            environment=self._environment(),
        )
        said, _ = initdb.communicate()
        if initdb.returncode != 0:
            raise EmbeddedServerError(
                f"PostgreSQL's initdb failed in {self.data_dir}; it said:\n{said.decode(errors='replace')}"
            )
        unfinished.rename(self._cluster)

    def _check_version(self, version: int) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if made_by != str(version):
            raise EmbeddedServerError(
                f"{self.data_dir} was made by PostgreSQL {made_by}, and this is PostgreSQL {version}; "
                "name another folder, or the older programs with bindir="
            )

    def _forget_dead_postmaster(self) -> None:
        """Remove the pid file of a killed server, which PostgreSQL would believe if its process id is another's by now.

        We hold the folder's lock, so no server of ours is there. One that somebody started by hand still answers.
        """
        lines = self._postmaster_lines()
        if len(lines) > HOST_LINE and _lives(lines[PID_LINE]) and _listens(lines[HOST_LINE], lines[PORT_LINE]):
            raise in_use(self.data_dir, lines[PID_LINE])
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster_lines(self) -> list[str]:
        try:
            text = (self._cluster / "postmaster.pid").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.splitlines()]


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _listens(host: str, port: str) -> bool:
    try:
        socket.create_connection((HOST if host in ("", "*") else host, int(port)), timeout=1).close()
    except (OSError, ValueError):
        return False
    return True
