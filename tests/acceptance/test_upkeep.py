"""The commands that keep an archive in shape: months, retention, and readers served by a real replica."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from deployments import free_port
from session_bridge.embedded import EmbeddedPostgres
from session_bridge.embedded.programs import postgres_programs


def as_owner_of(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: its folder's owner is who it runs as."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwuid(folder.stat().st_uid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def data_folder_of(url: str) -> Path:
    with psycopg.connect(url) as connection:
        [folder] = connection.execute("SHOW data_directory").fetchone() or [""]
    return Path(folder)


@pytest.fixture
def replica_url(deployment: Any, postgres: EmbeddedPostgres, servers_folder: Path) -> Iterator[str]:
    """A hot standby that follows the run's PostgreSQL; the address of the deployment's database in it."""
    primary, programs = urlsplit(deployment.database_url), postgres_programs()
    owner = as_owner_of(data_folder_of(deployment.database_url))
    parent = servers_folder / "replica"
    parent.mkdir()
    if owner:
        os.chown(parent, owner["user"], owner["group"])
    data = parent / "data"
    backup = [str(programs / "pg_basebackup"), "--dbname", deployment.database_url, "--pgdata", str(data)]
    options = ["--write-recovery-conf", "--checkpoint", "fast"]
    subprocess.run([*backup, *options], check=True, timeout=120, cwd=parent, **owner)
    port = free_port()
    where = ["-p", str(port), "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen([programs / "postgres", "-D", data, *where], cwd=parent, **owner)
    url = deployment.database_url.replace(f":{primary.port}", f":{port}", 1)
    for _ in range(600):
        try:
            psycopg.connect(url).close()
            break
        except psycopg.OperationalError:
            time.sleep(0.1)
    yield url
    server.terminate()
    server.wait(60)


def test_readers_use_the_replica(deployment: Any, replica_url: str, until: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", {"provider": "x", "status": "completed", "summary": "of the archive"})

    def in_replica() -> Any:
        with psycopg.connect(replica_url) as connection:
            return connection.execute("SELECT pg_is_in_recovery() FROM call_sessions").fetchone()

    assert until(in_replica) == (True,)
    shown = deployment.run("show", "CA1", "--json", READ_DATABASE_URL=replica_url)
    assert json.loads(shown.stdout)["archived"]["summary"] == "of the archive"
    assert deployment.run("explain", "CA1", READ_DATABASE_URL=replica_url).returncode == 0

    # It stands still: what is new is not in it, and what it has is still what it was.
    with psycopg.connect(replica_url, autocommit=True) as connection:
        connection.execute("SELECT pg_wal_replay_pause()")
        until(lambda: connection.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",))
    deployment.drain("CA1", {"summary": "newer"})
    deployment.drain("CA2", {"provider": "x", "status": "completed", "summary": "only in the archive"})
    shown = deployment.run("show", "CA1", "--json", READ_DATABASE_URL=replica_url)
    assert json.loads(shown.stdout)["archived"]["summary"] == "of the archive"
    shown = deployment.run("show", "CA2", "--json", READ_DATABASE_URL=replica_url)
    assert json.loads(shown.stdout)["archived"]["summary"] == "only in the archive"
    worker.stop()

    # What is asked of many calls is answered by the replica alone, also while the archive is away.
    for away in ({}, {"DATABASE_URL": "postgresql://u@127.0.0.1:1/gone"}):
        stats = deployment.run("stats", "--json", READ_DATABASE_URL=replica_url, **away)
        assert json.loads(stats.stdout)["total"]["calls"] == 1
        found = deployment.run("search", "nothing", "--json", READ_DATABASE_URL=replica_url, **away)
        assert (found.returncode, json.loads(found.stdout)) == (0, [])


def test_another_archive_is_no_replica(deployment: Any, empty_database_url: str) -> None:
    assert deployment.run("migrate", DATABASE_URL=empty_database_url).returncode == 0
    for command in (["show", "CA1"], ["stats"], ["search", "words"]):
        done = deployment.run(*command, READ_DATABASE_URL=empty_database_url)
        assert done.returncode == 1
        assert "another archive" in done.stderr


def test_partitions_are_listed_and_made(deployment: Any) -> None:
    done = deployment.run("partitions", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ahead"] == 3
    assert report["in_default"] == {}
    tables = {one["table"] for one in report["partitions"]}
    assert len(report["partitions"]) == 7 * len(tables)
    assert all(one["size_bytes"] > 0 for one in report["partitions"])

    # A month that nobody made: its rows wait in the default partition, which is said, and put right.
    month = "(now() - interval '1 month')::date"
    deployment.rows(f"SELECT drop_monthly_partition(table_name, {month}) FROM call_tables() WHERE by_month")
    insert = "INSERT INTO call_analysis (session_id, data) VALUES (session_id_floor(now() - interval '1 month'), '{}')"
    deployment.rows(insert)
    done = deployment.run("partitions")
    assert done.returncode == 1
    assert "call_analysis_default holds 1 rows" in done.stdout
    done = deployment.run("partitions", "--make", "--all")
    assert done.returncode == 0
    assert "partitions made" in done.stdout
    assert deployment.value("SELECT count(*) FROM call_analysis_default") == 0


def test_retention_on_the_command_line(deployment: Any, tmp_path: Path) -> None:
    deployment.rows(
        "INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at) "
        "VALUES ('CA1', session_id_floor('2024-03-05'), 'archived', now(), now(), now())"
    )
    deployment.rows(
        "INSERT INTO call_analysis (session_id, data) VALUES (session_id_floor('2024-03-05'), '{\"a\": 1}')"
    )
    done = deployment.run("retention", "--dry-run", "--json")
    assert [one["month"] for one in json.loads(done.stdout)] == ["2024-03"]
    assert deployment.value("SELECT count(*) FROM call_analysis") == 1
    done = deployment.run("retention", "--export", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    [month] = json.loads(done.stdout)
    assert month["rows"]["call_analysis"] == 1
    assert deployment.value("SELECT count(*) FROM call_analysis") == 0
    gone = deployment.run("explain", "CA1")
    assert "retired" in gone.stderr
    done = deployment.run("retention", "--restore", month["exported_to"])
    assert done.returncode == 0, done.stderr
    assert deployment.value("SELECT data FROM call_analysis") == {"a": 1}
    assert "nothing to do" in deployment.run("retention").stdout
