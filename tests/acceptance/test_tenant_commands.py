"""Who reads what, from the command line: the roles are made, a tenant's login reads, and sees its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo


def fields(tenant: str) -> dict[str, Any]:
    return {
        "status": "completed",
        "tenant_id": tenant,
        "language": "en",
        "started_at": "2026-11-20T10:00:00Z",
        "message:1": json.dumps({"role": "user", "content": f"a refund for {tenant}"}),
    }


@pytest.fixture
def role(database_url: str) -> Iterator[Callable[..., str]]:
    """Makes a role of this test's; without a name, the prefix of all."""
    prefix = str(conninfo_to_dict(database_url)["dbname"])

    def name(name: str = "", attributes: str = "LOGIN") -> str:
        full = f"{prefix}_{name}"
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} " + attributes).format(sql.Identifier(full)))
        return full

    yield name
    with psycopg.connect(database_url, autocommit=True) as connection:
        every = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (f"{prefix}_",))
        for (one,) in every.fetchall():
            statement = "REASSIGN OWNED BY {0} TO CURRENT_USER; DROP OWNED BY {0}; DROP ROLE {0}"
            connection.execute(sql.SQL(statement).format(sql.Identifier(one)))


def test_a_tenant_reads_its_own_calls(deployment: Any, database_url: str, role: Callable[..., str]) -> None:
    prefix = str(conninfo_to_dict(database_url)["dbname"])
    given = {"ROLE_PREFIX": prefix}
    worker = deployment.worker()
    for sid, tenant in (("CA1", "acme"), ("CA2", "bolt")):
        deployment.write(sid, fields(tenant))
        deployment.ask(sid)
    deployment.until_archived("CA1", "CA2")
    worker.stop()

    def done(*command: str, **settings: str) -> str:
        ran = deployment.run(*command, **given, **settings)
        assert ran.returncode == 0, ran.stderr
        return str(ran.stdout)

    assert "roles create" in done("roles")
    made = json.loads(done("roles", "create", "--json"))
    assert {one["kind"]: one["name"] for one in made["roles"]} == {
        kind: f"{prefix}_{kind}" for kind in ("owner", "writer", "reader")
    }
    assert made["exposed"] == []
    assert "nobody" in done("readers")
    analyst = role("analyst")
    assert analyst in done("readers", "add", analyst, "--tenant", "acme")
    [reader] = json.loads(done("readers", "--json"))
    assert (reader["role"], reader["sees"], reader["tenant"], reader["exists"]) == (analyst, "tenant", "acme", True)
    assert "acme" in done("readers")
    assert f"{prefix}_writer" in done("roles")
    assert done("roles", "grant") == "granted\n"

    # The same command, with the reader's login.
    as_reader = make_conninfo(database_url, user=analyst)
    hits = json.loads(done("search", "refund", "--json", DATABASE_URL=as_reader))
    assert [hit["call_sid"] for hit in hits] == ["CA1"]
    assert json.loads(done("search", "refund", "--tenant", "bolt", "--json", DATABASE_URL=as_reader)) == []
    done("readers", "remove", analyst)
    assert deployment.run("search", "refund", DATABASE_URL=as_reader).returncode == 1


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (("readers", "add", "someone"), 2, "--all, or a tenant or a user"),
        (("readers", "add", "someone", "--all", "--tenant", "a"), 2, "--all, or a tenant or a user"),
        (("readers", "add", "someone", "--tenant", "a", "--participant"), 2, "needs a user"),
        (("readers", "add", "someone", "--tenant", "a"), 1, "session-bridge roles create"),
        (("readers", "remove", "someone"), 1, "is no reader"),
    ],
)
def test_what_cannot_be_done_says_why(deployment: Any, command: tuple[str, ...], status: int, words: str) -> None:
    done = deployment.run(*command)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
