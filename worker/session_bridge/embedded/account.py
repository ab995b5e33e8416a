"""The account PostgreSQL runs under, which may not be root's.

Started by an ordinary user, the server is that user's. Started by root, it is given to the owner of its data or, when
there is none yet, to the machine's `postgres` or `nobody`. Where that account cannot reach the programs or the data (a
checkout under /root, say), it is let through by the one capability that overrides file modes.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from session_bridge.embedded.errors import EmbeddedServerError


@dataclass(frozen=True, slots=True)
class Account:
    """Who a server runs as: `uid` and `gid`, or the starter's own where they are None."""

    uid: int | None = None
    gid: int | None = None
    wrapper: tuple[str, ...] = ()
    """What stands before a command to run it under this account, where the system call alone is not enough."""

    def own(self, file: Path | int) -> None:
        """Give a file, a folder or what a descriptor stands for to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(file, self.uid, self.gid)

    def popen(
        self,
        command: Sequence[str],
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        own_session: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a command under the account, with nothing to read and the descriptors `inherited` open."""
        dropped = self.uid is not None and not self.wrapper
        return subprocess.Popen(  # noqa: S603
            [*self.wrapper, *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=inherited,
            env=environment,
            start_new_session=own_session,
            cwd="/",  # the folder one stands in may be closed to the account
            user=self.uid if dropped else None,
            group=self.gid if dropped else None,
            extra_groups=() if dropped else None,
        )

    def naming(self) -> tuple[str, ...]:
        """What stands before a command that asks for its user's name, which the user of a container may not have."""
        try:
            pwd.getpwuid(os.geteuid() if self.uid is None else self.uid)
        except KeyError:
            # Within a namespace of its own the command is `nobody`, and outside of it still the account.
            unshare = shutil.which("unshare")
            nobody = pwd.getpwnam("nobody")
            ids = f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"
            return (unshare, "--user", *ids, "--") if unshare else ()
        return ()

    def reaches(self, programs: Path, data: Path) -> bool:
        """Whether a command of the account runs, and finds the programs and the data."""
        script = '"$0" --version >/dev/null && test -w "$1" && test -x "$1"'
        try:
            probe = self.popen(
                ["/bin/sh", "-c", script, str(programs / "initdb"), str(data)], stderr=subprocess.DEVNULL
            )
        except OSError:
            return False
        return probe.wait() == 0


def choose_account(programs: Path, data: Path, cluster: Path) -> Account:
    """The account for a PostgreSQL with these programs, on the cluster there is or will be in the folder `data`."""
    if os.geteuid() != 0:
        return Account()
    owner = (cluster if cluster.exists() else data).stat()
    uid, gid = owner.st_uid, owner.st_gid
    if uid == 0:
        if cluster.exists():
            raise EmbeddedServerError(
                f"{cluster} belongs to root, whom PostgreSQL refuses; chown -R it to another user"
            )
        uid, gid = _unprivileged()
        Account(uid, gid).own(data)
    for wrapper in ((), _past_file_modes(uid, gid)):
        account = Account(uid, gid, wrapper)
        if account.reaches(programs, data):
            return account
    raise EmbeddedServerError(
        f"PostgreSQL does not run as root, and user {uid} cannot reach {programs} and {data}; "
        "run as an ordinary user, or keep both in folders that others may enter"
    )


def _unprivileged() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return found.pw_uid, found.pw_gid
    raise EmbeddedServerError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody; run as an ordinary user"
    )


def _past_file_modes(uid: int, gid: int) -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    capability = "+dac_override"
    return (
        setpriv,
        f"--reuid={uid}",
        f"--regid={gid}",
        "--clear-groups",
        f"--inh-caps={capability}",
        f"--ambient-caps={capability}",
        "--securebits=+no_setuid_fixup",  # else access(2), by which initdb looks for its programs, knows no capability
        "--",
    )
