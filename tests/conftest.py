"""Real servers for the tests: started once for the run, with an empty database of each kind for every test."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from session_bridge.archive.migrations import migrate
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey

CHECKOUT = Path(__file__).resolve().parent.parent
VALKEY_DATABASES = 16  # Valkey's default
TEMPLATE = "template_of_tests"

postgres_numbers = itertools.count(1)
valkey_numbers = itertools.cycle(range(VALKEY_DATABASES))


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that other users may enter: as root, PostgreSQL runs as one of them."""
    with tempfile.TemporaryDirectory(prefix="session-bridge-tests-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL, which keeps its data while it is killed and restarted but not in a loss of power: that is faster."""
    with EmbeddedPostgres(servers_folder / "postgres", settings={"fsync": "off", "full_page_writes": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[EmbeddedValkey]:
    """Valkey, which keeps nothing on disk."""
    with EmbeddedValkey(servers_folder / "valkey", args=("--save", "", "--appendonly", "no")) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the archive's tables, to be cloned for each test."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(postgres.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """The address of a database of the test's own, with the archive's tables, empty."""
    yield from _database(postgres, template_database)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database of the test's own that nobody has migrated."""
    yield from _database(postgres, "template1")


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """The address of an empty Redis database; no test among the last fifteen has it too."""
    number = next(valkey_numbers)
    with redis.Redis(port=valkey.port, db=number) as client:
        client.flushdb()
    return f"redis://127.0.0.1:{valkey.port}/{number}"


@pytest.fixture(scope="session")
def shared_calls() -> Path:
    """The folder of recorded calls, which is no part of the checkout."""
    shared = os.environ.get("SESSION_BRIDGE_SHARED")
    folder = (Path(shared) if shared else CHECKOUT.parent / "shared") / "calls"
    if not folder.is_dir():
        pytest.skip(
            f"there are no recorded calls in {folder}; SESSION_BRIDGE_SHARED names the folder that holds calls/"
        )
    return folder


def _database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(postgres_numbers)}"
    # Many small tables are copied faster than they are logged.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(create)
    yield server.url_of(name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        # A worker that the test killed may not have noticed that its connections are to go.
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
