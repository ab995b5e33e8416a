"""Makes the project's own virtual environment, once, and prints the folder of its programs.

It is made anew when the pinned requirements or the Python change. Runs on the bare Python that the scripts found. With
the argument `adapters` it is another environment, beside the first: of what the adapters attach to, for their tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
REQUIREMENTS = CHECKOUT / "requirements.txt"
PROJECT = CHECKOUT / "pyproject.toml"
ENVIRONMENT = Path(os.environ.get("SESSION_BRIDGE_VENV") or CHECKOUT / ".venv").absolute()
if sys.argv[1:] == ["adapters"]:
    REQUIREMENTS = CHECKOUT / "tests" / "adapters" / "requirements.txt"
    ENVIRONMENT = ENVIRONMENT.with_name(f"{ENVIRONMENT.name}-adapters")
PROMPT = "call-session-bridge"  # stands in the environment's configuration, and tells ours from somebody else's


class Stamp:
    """A file in the environment that says what a step of the installation was made from, written when it is done."""

    def __init__(self, name: str, *sources: Path) -> None:
        self._file = ENVIRONMENT / name
        digest = hashlib.sha256(f"{sys.version} {sys.base_prefix} {ENVIRONMENT}".encode())
        for source in sources:
            digest.update(source.read_bytes())
        self._text = digest.hexdigest()

    def holds(self) -> bool:
        """Whether the step was done with these very sources."""
        return self._file.exists() and self._file.read_text(encoding="ascii") == self._text

    def write(self) -> None:
        """Say that the step is done."""
        self._file.write_text(self._text, encoding="ascii")


def main() -> str | None:
    """Make what is missing; return why that failed."""
    packages, project = Stamp("packages.stamp", REQUIREMENTS), Stamp("project.stamp", REQUIREMENTS, PROJECT)
    if not project.holds():
        with alone() as lock:
            # Another script may have done it while this one waited.
            if not packages.holds():
                if problem := make_environment() or install_packages(lock):
                    return problem
                packages.write()
            if not project.holds():
                if problem := install_project(lock):
                    return problem
                project.write()
    sys.stdout.write(f"{ENVIRONMENT / 'bin'}\n")
    return None


@contextmanager
def alone() -> Iterator[int]:
    """Hold a lock on the environment's folder.

    It ends with this process and its pip, however they end: a pip whose starter was killed still writes.
    """
    ENVIRONMENT.mkdir(parents=True, exist_ok=True)
    folder = os.open(ENVIRONMENT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def make_environment() -> str | None:
    """An empty environment, in the place of an older or unfinished one."""
    configuration = ENVIRONMENT / "pyvenv.cfg"
    ours = configuration.exists() and PROMPT in configuration.read_text(encoding="utf-8")
    if any(ENVIRONMENT.iterdir()) and not ours:
        return f"{ENVIRONMENT} was not made by this script: remove it, or name another folder in SESSION_BRIDGE_VENV."
    # Clearing empties the folder and leaves it in its place, so the lock on it stays good.
    venv.create(ENVIRONMENT, clear=True, symlinks=True, with_pip=True, prompt=PROMPT)
    return None


def install_packages(lock: int) -> str | None:
    """The pinned requirements."""
    say(f"Installing the pinned packages into {ENVIRONMENT} (once; it may take a minute) ...")
    started = time.monotonic()
    problem = pip(lock, "--require-hashes", "--requirement", str(REQUIREMENTS))
    if problem is None:
        say(f"Installed in {time.monotonic() - started:.0f} s.")
    return problem


def install_project(lock: int) -> str | None:
    """The checkout itself, so that a change in it counts at once."""
    # With nothing besides: what it builds with is among the packages of the first environment only, and is not needed
    # to run it.
    if sys.argv[1:] == ["adapters"]:
        return write_path()
    return pip(lock, "--no-deps", "--no-build-isolation", "--editable", str(CHECKOUT))


def write_path() -> str | None:
    """Let the environment's Python find the checkout's source."""
    (folder,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
    (folder / "call-session-bridge.pth").write_text(f"{CHECKOUT / 'worker'}\n", encoding="utf-8")
    return None


def pip(lock: int, *arguments: str) -> str | None:
    """Install with the environment's pip, whose words are shown only if it fails."""
    command = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", *arguments]
    done = subprocess.run(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        pass_fds=(lock,),
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode == 0:
        return None
    return f"{done.stdout}\npip did not install what is needed; why is said above. The next run tries again."


def say(words: str) -> None:
    """Tell the person, not the program that reads our output."""
    sys.stderr.write(f"{words}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next run begins the installation again.")
