"""The servers of one run, with production's durability, and what is done to them outside of the clock."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import urlsplit

import psycopg
import redis
from psycopg import sql

from benchmark.workload import LiveCall
from session_bridge.archive.journal import JOURNAL
from session_bridge.archive.migrations import migrate
from session_bridge.archive.tables import CHILDREN, SESSIONS
from session_bridge.contract.keys import Keys
from session_bridge.embedded import EmbeddedServers

TABLES = (
    *("call_sids", SESSIONS.name, *(table.name for table in CHILDREN)),
    *("rag_chunk_contents", JOURNAL.name, "call_session_rejects"),
)
"""What is emptied before every measured piece, and counted after it."""

KEYS = Keys()
_KEYS_ONLY = "keys_only"
_REDIS_BESIDE = 1
_FILL_AT_ONCE = 200
_PATIENCE_SECONDS = 600.0
_SHORTEST_PAUSE, _LONGEST_PAUSE, _PAUSE_PER_CALL = 0.003, 0.1, 0.0001
_POSTGRES_SETTINGS = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "wal_compression",
    "shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "jit",
)  # fmt: skip
_VALKEY_SETTINGS = ("appendonly", "appendfsync", "maxmemory-policy", "io-threads", "save")
# Truncating every partition of every month takes a second; those that hold something, a moment.
_FILLED = """\
SELECT relid::regclass::text
FROM unnest(%s::regclass[]) AS ours (parent), LATERAL (
    SELECT relid FROM pg_partition_tree(parent) WHERE isleaf UNION ALL SELECT parent
) AS leaf (relid)
WHERE pg_relation_size(relid) > 0"""


class UnfairError(Exception):
    """Two contenders did not do the same work, so that their times cannot be compared."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A PostgreSQL and a Valkey: the live sessions, the archive as it ships, and one without secondary indexes."""

    servers: EmbeddedServers
    redis: redis.Redis
    redis_url: str
    database_url: str
    keys_only_url: str

    @contextmanager
    def beside(self, name: str) -> Iterator[Lab]:
        """Live sessions and an archive of their own in the same servers, both empty: to be measured in turns."""
        database_url = _new_archive(self.servers, name)
        redis_url = urlsplit(self.redis_url)._replace(path=f"/{_REDIS_BESIDE}").geturl()
        with redis.Redis.from_url(redis_url, decode_responses=False) as client:
            yield replace(self, redis=client, redis_url=redis_url, database_url=database_url)

    def connect(self, url: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of its own, each statement its own transaction."""
        return psycopg.connect(url or self.database_url, autocommit=True)

    def empty(self) -> None:
        """Nothing in either server, as before the first call."""
        self.redis.flushall()
        self.empty_archive()

    def empty_archive(self) -> None:
        """Nothing in PostgreSQL."""
        for url in (self.database_url, self.keys_only_url):
            with self.connect(url) as connection:
                filled = [name for (name,) in connection.execute(_FILLED, [list(TABLES)]).fetchall()]
                if filled:
                    connection.execute(f"TRUNCATE {', '.join(filled)}")

    def settle(self) -> None:
        """Have what earlier pieces left to be written be written, so that the next one does not pay for it."""
        with self.connect() as connection:
            connection.execute("CHECKPOINT")
        # A minute after so much was written Valkey would save it, beside whatever is measured then.
        self.wait(lambda: not self._persists(), "Valkey to end what it writes")
        self.redis.bgsave()
        self.wait(lambda: not self._persists(), "Valkey to save its data")

    def _persists(self) -> bool:
        now = cast("dict[str, Any]", self.redis.info("persistence"))
        return bool(now["aof_rewrite_in_progress"] or now["rdb_bgsave_in_progress"] or now["aof_rewrite_scheduled"])

    def fill(self, calls: Sequence[LiveCall]) -> None:
        """Put the live sessions into Redis; nobody is told yet."""
        for start in range(0, len(calls), _FILL_AT_ONCE):
            pipeline = self.redis.pipeline(transaction=False)
            for call in calls[start : start + _FILL_AT_ONCE]:
                pipeline.hset(KEYS.session(call.call_sid), mapping=dict(call.fields))
            pipeline.execute()

    def ask(self, calls: Sequence[LiveCall], queue: str = KEYS.ready) -> None:
        """Say that all these calls are due, at one moment, and wake the workers."""
        pipeline = self.redis.pipeline()
        pipeline.zadd(queue, {call.call_sid: 1 for call in calls})
        pipeline.publish(KEYS.wake, 1)
        pipeline.execute()

    def wait_drained(self, queue: str = KEYS.ready) -> None:
        """Return when no request is left: its removal is the last thing a drain does.

        It looks rarely while many are left: on two cores, asking would be part of the load.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while left := cast("int", self.redis.zcard(queue)):
            _require_patience(deadline, "the drain to end")
            time.sleep(min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, left * _PAUSE_PER_CALL)))

    def wait(self, done: Callable[[], object], what: str, pause: float = 0.003) -> None:
        """Look until `done()`; raises TimeoutError after ten minutes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not done():
            _require_patience(deadline, what)
            time.sleep(pause)

    def counts(self, url: str | None = None) -> dict[str, int]:
        """The rows of every table."""
        counts = [
            sql.SQL("SELECT {}, count(*) FROM {}").format(sql.Literal(name), sql.Identifier(name)) for name in TABLES
        ]
        with self.connect(url) as connection:
            rows = connection.execute(sql.SQL(" UNION ALL ").join(counts)).fetchall()
        return dict(cast("list[tuple[str, int]]", rows))

    def require(self, expected: Mapping[str, int], who: str, url: str | None = None, *, besides: str = "") -> None:
        """Raise UnfairError unless every table, but for the one named in `besides`, has the rows it should."""
        found = self.counts(url)
        different = [
            f"{name} has {found[name]:,} rows instead of {expected.get(name, 0):,}"
            for name in TABLES
            if name != besides and found[name] != expected.get(name, 0)
        ]
        if different:
            raise UnfairError(f"{who} did not write what the others write: {'; '.join(different)}")

    def settings(self) -> dict[str, dict[str, str]]:
        """What the servers say of their durability and size."""
        with self.connect() as connection:
            postgres = {
                name: str(cast("tuple[Any, ...]", connection.execute(f"SHOW {name}").fetchone())[0])
                for name in _POSTGRES_SETTINGS
            }
        valkey: dict[str, str] = {}
        for name in _VALKEY_SETTINGS:
            valkey |= cast("dict[str, str]", self.redis.config_get(name))
        return {"postgresql": postgres, "valkey": valkey}

    def versions(self) -> dict[str, str]:
        """What the servers say they are."""
        info = cast("dict[str, Any]", self.redis.info("server"))
        with self.connect() as connection:
            version = connection.info.parameter_status("server_version") or "unknown"
        return {"postgresql": version, "valkey": str(info.get("valkey_version", info["redis_version"]))}


def _require_patience(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"waited {_PATIENCE_SECONDS:.0f} s in vain for {what}")


@contextmanager
def open_lab(folder: str | None = None) -> Iterator[Lab]:
    """Servers in a new folder, which goes with them at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="session-bridge-bench-", dir=folder, ignore_cleanup_errors=True) as home,
        EmbeddedServers(os.path.join(home, "servers")) as servers,  # noqa: PTH118  # a folder's name
    ):
        migrate(servers.database_url)
        keys_only_url = _new_archive(servers, _KEYS_ONLY)
        _drop_secondary_indexes(keys_only_url)
        with redis.Redis.from_url(servers.redis_url, decode_responses=False) as client:
            yield Lab(servers, client, servers.redis_url, servers.database_url, keys_only_url)


def _new_archive(servers: EmbeddedServers, name: str) -> str:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = servers.postgres.url_of(name)
    migrate(url)
    return url


def _drop_secondary_indexes(url: str) -> None:
    find = """\
        SELECT quote_ident(index.relname)
        FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid JOIN pg_class AS owner ON owner.oid = indrelid
        WHERE NOT indisprimary AND NOT index.relispartition AND owner.relname = ANY(%s)"""
    with psycopg.connect(url, autocommit=True) as connection:
        for (name,) in connection.execute(find, [list(TABLES)]).fetchall():
            connection.execute(f"DROP INDEX {name}")
