"""The least a program can do that archives a call the moment it is told to: `python -m benchmark.minimum`.

It reads commands, a line each, and answers each with the milliseconds it took. `prepare SID` makes a call's bytes
ready; `archive SID` reads the hash once, takes it apart, and writes its rows in one transaction; `send SID` reads the
hash as well, and sends the bytes that were made ready. No queue, no lease, no release, no second drain.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
import redis
from psycopg import sql

from benchmark.handmade import CONTENTS, Line, cells_of, lines_of
from benchmark.lab import KEYS
from benchmark.limit import send
from benchmark.readymade import Batch, make_ready
from benchmark.workload import LiveCall

_KEEP_CONTENTS = """\
INSERT INTO rag_chunk_contents (month, tenant_id, content_hash, content)
SELECT * FROM unnest(%s::date[], %s::text[], %s::bytea[], %s::text[]) ON CONFLICT DO NOTHING"""


class Minimum:
    """Over connections that are open, statements that are composed."""

    def __init__(self, live: redis.Redis, archive: psycopg.Connection[Any]) -> None:
        self._live = live
        self._archive = archive
        self._statements: dict[str, sql.Composed] = {}
        self._ready: dict[str, Batch] = {}

    def prepare(self, call_sid: str) -> None:
        """Make the bytes of a call; its chunk texts are left out, for the archive may have them."""
        call = LiveCall(call_sid, self._read(call_sid))
        [self._ready[call_sid]] = make_ready([call], 1, with_contents=False).batches

    def send(self, call_sid: str) -> None:
        """One HGETALL, and the bytes that were made ready."""
        self._read(call_sid)
        send(self._archive, [self._ready.pop(call_sid)])

    def archive(self, call_sid: str) -> None:
        """One HGETALL, and the rows it comes to."""
        lines = lines_of(call_sid, self._read(call_sid))
        contents = lines.pop(CONTENTS)
        with self._archive.transaction(), self._archive.cursor() as cursor:
            for table, found in lines.items():
                if found:
                    with cursor.copy(self._copy(table, found[0])) as copy:
                        for line in found:
                            copy.write_row(cells_of(table, line))
            if contents:
                columns = [[line[name] for line in contents] for name in contents[0]]
                cursor.execute(_KEEP_CONTENTS, columns, prepare=True)

    def _read(self, call_sid: str) -> dict[bytes, bytes]:
        return self._live.hgetall(KEYS.session(call_sid))  # type: ignore[return-value]  # redis-py types it for both its clients

    def _copy(self, table: str, line: Line) -> sql.Composed:
        statement = self._statements.get(table)
        if statement is None:
            columns = sql.SQL(", ").join(map(sql.Identifier, line))
            statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
            self._statements[table] = statement
        return statement


def main() -> None:
    """Do what the lines on standard input say."""
    with (
        redis.Redis.from_url(os.environ["REDIS_URL"]) as live,
        psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as archive,
    ):
        minimum = Minimum(live, archive)
        commands: dict[str, Callable[[str], None]] = {
            "prepare": minimum.prepare,
            "send": minimum.send,
            "archive": minimum.archive,
        }
        for line in sys.stdin:
            began = time.perf_counter()
            command, call_sid = line.split()
            commands[command](call_sid)
            sys.stdout.write(f"{(time.perf_counter() - began) * 1000}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
