"""An archived call as it is read back: just as it was written, whatever the server's own settings are."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from session_bridge.archive import reader
from session_bridge.archive.reader import READ_BACK
from session_bridge.archive.tables import Row, Table
from session_bridge.archive.writer import Batch, batch_of
from session_bridge.drain import drainer

# Forms of a moment, and None for an event that has none.
MOMENTS = (1_763_632_800, 1_763_632_800_120, "2026-11-20T10:00:00.000001Z", "2026-11-20T11:30:00+01:30", "86400", None)
LATEST, EARLIEST = "2199-12-31T23:59:59.999999Z", "1970-01-02T00:00:00Z"
CHUNKS = [
    {"chunk_id": "b", "content": "nine to five", "score": 0.1 + 0.2},
    {"chunk_id": "a", "content": "closed on Monday", "chunk_index": 1},
    {"chunk_id": "c", "content": "nine to five", "shelf": "upper"},
    {"chunk_id": "no text"},
]
EVENTS: dict[str, list[dict[str, object]]] = {
    "message": [{"role": "user", "content": '\\N "o\'clock"\n\x1f', "confidence": 1 / 3, "mood": ["x", 1.50]}],
    "transition": [{"to_node_id": "n1"}, {"to_node_id": "ü", "turn_number": -(2**31)}],
    "metric": [{"metric_type": "llm_ttfb", "value": 5e-324}, {"metric_type": "price", "value": 1.7976931348623157e308}],
    "rag": [{"query_text": "opening hours", "query_params": {"k": 1.50}, "chunks": CHUNKS}, {"query_text": "none"}],
    "extraction": [{"variables_requested": ["b", "a"], "variables_extracted": {"b": 1e3, "a": None}, "success": False}],
    "interruption": [{"interrupted_at_turn": 2}],
    "tool": [{"name": "book", "arguments": {"b": 1, "a": 2}, "output": "done", "is_error": True, "duration_ms": 0.1}],
    "participant": [
        {"identity": "caller", "joined_at": EARLIEST, "left_at": LATEST},
        {"identity": "agent", "joined_at": MOMENTS[2], "left_at": MOMENTS[3]},
    ],
    "cost": [{"service": "llm", "amount_cents": "0.12345678915"}, {"service": "tts", "usage": 12, "currency": "EUR"}],
    "recording": [{"recording_sid": "RE1", "recording_url": "https://example.test/1", "duration_seconds": 9.5}],
    "sentiment": [{"label": "glad", "at": [1, {"a": 2}]}],
}
SETTINGS = {
    "DateStyle": "German, DMY",
    "TimeZone": "Pacific/Chatham",
    "IntervalStyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-3",
    "standard_conforming_strings": "off",
}


def fields() -> dict[str, str]:
    """A call with events of every family, each at every form of a moment."""
    made = {"provider": "twilio", "started_at": "2026-11-20T10:00:00Z", "tenant_id": "t1"}
    for family, events in EVENTS.items():
        for place, event in enumerate(events):
            for form, moment in enumerate(MOMENTS):
                timed = event if moment is None else event | {"timestamp": moment}
                made[f"{family}:{place}-{form}"] = json.dumps(timed)
    return made


def told(table: Table, row: Row) -> tuple[object, ...]:
    """A row by which it is compared: PostgreSQL writes JSON with other spaces, and names in another order."""
    cells = zip(table.columns, row, strict=True)
    return tuple(
        json.dumps(json.loads(cell), sort_keys=True) if name in table.json_columns and isinstance(cell, str) else cell
        for name, cell in cells
    )


@pytest.fixture(params=["usual", "unusual"])
async def any_server(request: pytest.FixtureRequest, bridge_with: Any, database_url: str) -> Any:
    """A bridge to a database with the usual settings, and to one with others."""
    if request.param == "unusual":
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            for name, value in SETTINGS.items():
                statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
                await connection.execute(
                    statement.format(*map(sql.Identifier, (connection.info.dbname, name)), sql.Literal(value))
                )
    return await bridge_with()


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that are written."""
    made: list[Batch] = []

    def noting(calls: Any) -> Batch:
        made.append(batch_of(calls))
        return made[-1]

    monkeypatch.setattr(drainer, "batch_of", noting)
    return made


async def test_what_is_read_back_is_what_was_written(any_server: Any, batches: list[Batch]) -> None:
    await any_server.ask("CA1", fields())
    await any_server.drain()
    [written] = batches[0].calls
    session_id = written.book.session_id
    call = (await reader.read_back(any_server.bridge.connections, [session_id]))[session_id]
    for table in READ_BACK:
        assert written.rows[table], table.name
        one, other = ({told(table, row) for row in rows} for rows in (written.rows[table], call.of(table)))
        assert one == other, table.name
    assert call.contents == written.chunk_contents
    assert len(call.contents) == 2


async def test_of_a_call_that_is_drained_again_no_row_is_sent_but_some_with_json(
    any_server: Any, batches: list[Batch]
) -> None:
    for _ in range(2):
        await any_server.ask("CA1", fields())
        await any_server.drain()
    [again] = batches[1].calls
    assert again.merge
    for table in READ_BACK:
        assert again.rows[table] == [], table.name
        with_json = [table.columns.index(name) for name in table.json_columns]
        assert all(any(row[place] for place in with_json) for row in again.changed[table]), table.name


async def test_an_archived_event_that_redis_has_no_more_is_left_as_it_is(
    any_server: Any, batches: list[Batch], call_rows: Callable[[Any], Awaitable[list[Any]]]
) -> None:
    await any_server.ask("CA1", fields())
    await any_server.drain()
    before = await call_rows(any_server)
    await any_server.ask("CA1", {"agent_name": "Ann"})
    await any_server.drain()
    assert len(batches) == 2
    assert await call_rows(any_server) == before


@pytest.fixture
def call_rows() -> Callable[[Any], Awaitable[list[Any]]]:
    """All rows of all tables that are read back, with their versions."""

    async def read(opened: Any) -> list[Any]:
        names = sorted(table.name for table in READ_BACK)
        return [await opened.rows(f"SELECT xmin::text, t::text FROM {name} AS t ORDER BY 2") for name in names]

    return read
