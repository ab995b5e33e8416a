"""A database may have settings that somebody else needs: the bridge minds none of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from deployments import Deployment, until

SETTINGS = {
    "DateStyle": "German, DMY",
    "TimeZone": "Pacific/Chatham",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-3",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "default_text_search_config": "pg_catalog.simple",
    "search_path": "nowhere",
    "row_security": "off",
    "transform_null_equals": "on",
    "check_function_bodies": "off",
}
COMMANDS = (
    ("ledger",),
    ("status",),
    ("stats", "--by", "agent"),
    ("partitions",),
    ("dead", "list"),
    ("rates", "list"),
    ("roles",),
    ("retention",),
    ("explain", "CA1"),
)
NAME = "Zoë 🎧"


@pytest.fixture
def elsewhere(redis_url: str, empty_database_url: str) -> Iterator[Deployment]:
    """A deployment whose database has other settings than PostgreSQL's own."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for setting in SETTINGS.items():
            name, value = map(sql.Identifier, setting)
            database = sql.Identifier(connection.info.dbname)
            connection.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, name, value))
    with contextlib.closing(Deployment(redis_url, empty_database_url)) as opened:
        yield opened


def run(deployment: Deployment, *arguments: str) -> str:
    done = deployment.run(*arguments)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def test_a_database_with_settings_of_its_own_serves_as_any_other(elsewhere: Any) -> None:
    run(elsewhere, "migrate")
    worker = elsewhere.worker()
    run(elsewhere, "play", "5")
    # Drained twice: what is read back of it is joined to the rest.
    for number in range(2):
        event = json.dumps({"role": "user", "content": f"{number} {NAME}", "timestamp": "2026-11-20T10:00:00.1Z"})
        elsewhere.write("CA1", {"agent_name": NAME, "started_at": "2026-11-20T10:00:00Z", f"message:{number}": event})
        elsewhere.ask("CA1")
        until(lambda: elsewhere.is_gone("CA1"), "it was not released")
    for command in COMMANDS:
        run(elsewhere, *command)
    worker.stop()
    call = json.loads(run(elsewhere, "show", "CA1", "--json"))
    assert call["archived"]["agent_name"] == NAME
    assert call["archived"]["ended_at"] == "2026-11-20T10:00:00.1+00:00"
    [found] = json.loads(run(elsewhere, "search", "0", "--json"))
    assert found["snippet"] == f"user: <mark>0</mark> {NAME}\nuser: 1 {NAME}"
    assert json.loads(run(elsewhere, "verify", "--json"))["counts"]["FAIL"] == 0
    findings = json.loads(elsewhere.run("doctor", "--json").stdout)["findings"]
    # Without its log, which the tests' Redis has not, nobody can say how it is kept.
    assert [one["id"] for one in findings if one["verdict"] == "unknown"] == ["redis.appendfsync"]
