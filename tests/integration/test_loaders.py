"""Loading conversations in SQL: what is loaded is what the bridge would have archived."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from session_bridge.archive.tables import CHILDREN, SESSIONS
from session_bridge.contract import ids
from session_bridge.contract.vocabulary import LATENCY_TYPES, MetricType

BEGAN = (ids.now() - timedelta(days=3)).replace(microsecond=0)
KEYS = {
    "messages": "message",
    "transitions": "transition",
    "metrics": "metric",
    "retrievals": "rag",
    "extractions": "extraction",
    "interruptions": "interruption",
    "tool_calls": "tool",
    "participants": "participant",
    "costs": "cost",
    "recordings": "recording",
}
# What a loader is, and a drain is not.
PROVENANCE = {"id", "call_sid", "session_id", "archived_at", "first_archived_at", "finalize_reason", "finalized_by"}
PROVENANCE |= {
    "completeness",
    "inferred",
    "outcome",
    "initial_node",
    "final_node",
    "status_raw",
    "status_by",
    "last_activity_at",
}


def at(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat()


def conversation(seed: int) -> dict[str, Any]:
    """A conversation with events of every family; some have no time, and come in no order."""
    chance = random.Random(seed)
    count = chance.choice([1, 3, 12])

    def when() -> dict[str, str]:
        return {"timestamp": at(chance.randrange(300))} if chance.random() < 0.7 else {}

    def event_id(number: int) -> str:
        return chance.choice([str(number), f"00{number}", f"m-{number}", f"M{number}"])

    events: dict[str, list[dict[str, Any]]] = {
        "messages": [
            {
                "role": chance.choice(["user", "assistant", "tool", "system"]),
                "content": chance.choice(["", "łódź", "two\nlines", "🙂"]),
                "speaker": chance.choice([None, "Mrs Hall"]),
                "start_ms": chance.choice([None, 1.5]),
            }
            for _ in range(count * 2)
        ],
        "transitions": [{"to_node_id": str(n), "from_node_id": "a"} for n in range(count)],
        "metrics": [
            {
                "metric_type": str(kind),
                "value": chance.expovariate(0.01),
                "unit": "ms" if kind in LATENCY_TYPES else None,
            }
            for kind in MetricType
        ],
        "retrievals": [{"query_text": "q", "processing_time_ms": chance.choice([None, 12.5])} for _ in range(count)],
        "extractions": [{"variables_requested": ["a"], "variables_extracted": {"a": n}} for n in range(count)],
        "interruptions": [{"interrupted_at_turn": n} for n in range(count)],
        "tool_calls": [{"name": "t", "arguments": {"n": n}, "is_error": False} for n in range(count)],
        "participants": [{"identity": "caller", "joined_at": at(1), "left_at": at(60)}],
        "costs": [
            {"service": "llm", "amount_cents": 1.25},
            {"service": "tts", "usage": 10, "unit_price_cents": 0.5},
            {"service": "llm", "amount_cents": 3, "currency": chance.choice(["USD", "EUR"])},
        ],
        "recordings": [{"recording_sid": "RE1", "duration_seconds": 61}],
    }
    for family in events.values():
        for number, event in enumerate(family):
            own = f"{event_id(number)}.{number}" if chance.random() < 0.5 else str(number)
            event.update(when() | {"event_id": own})
        chance.shuffle(family)
    return {
        "provider": "twilio",
        "tenant_id": "acme",
        "agent_id": "ann",
        "user_id": "u1",
        "direction": "inbound",
        "status": "completed",
        "language": "en",
        "started_at": at(0),
        "answered_at": at(2),
        "ended_at": at(301.5),
        "collected_data": {"party": 2},
        "analysis": {"sentiment": "good", "sentiment_score": 0.5, "topics": ["a"], "success": True, "other": 1},
        "something": "else",
        **events,
    }


def as_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The same as a live session."""
    fields = {name: value for name, value in given.items() if name not in KEYS}
    for key, family in KEYS.items():
        for event in given.get(key, ()):
            body = {name: value for name, value in event.items() if name != "event_id" and value is not None}
            fields[f"{family}:{event['event_id']}"] = body
    return fields


async def upsert(bridge: Any, sid: str, given: dict[str, Any]) -> str:
    [row] = await bridge.rows("SELECT upsert_conversation(%s::jsonb) AS id", json.dumps({"call_sid": sid} | given))
    return str(row["id"])


async def batch(bridge: Any, *given: Any) -> list[tuple[Any, ...]]:
    rows = await bridge.rows("SELECT * FROM batch_insert_conversations(%s::jsonb)", json.dumps(given))
    return [(row["place"], row["call_sid"], row["result"], row["error"]) for row in rows]


async def rows_of(bridge: Any, sid: str) -> dict[str, list[dict[str, Any]]]:
    """All rows of a call but for what a loader is, and a drain is not."""
    found = {}
    for table in (SESSIONS, *CHILDREN):
        key = "id" if table is SESSIONS else "session_id"
        order = ", ".join(column for column in table.key if column != key) or key
        columns = ", ".join(f'"{column}"' for column in table.columns if column not in PROVENANCE)
        found[table.name] = await bridge.rows(
            f"SELECT {columns} FROM {table.name} WHERE {key} = session_id_of(%s) ORDER BY {order}", sid
        )
    return found


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_loaded_is_what_a_drain_archives(bridge_with: Any, seed: int) -> None:
    # What nobody reported, a drain computes from rates; what is loaded costs what it says.
    bridge = await bridge_with(rates=False)
    given = conversation(seed)
    await bridge.ask("drained", as_fields(given))
    await bridge.drain()
    assert await bridge.rejects("drained") == {}
    await upsert(bridge, "loaded", given)
    drained, loaded = await rows_of(bridge, "drained"), await rows_of(bridge, "loaded")
    assert_same(drained, loaded)
    assert loaded["call_sessions"][0]["row_counts"]["call_messages"] == len(given["messages"])


def assert_same(drained: dict[str, list[dict[str, Any]]], loaded: dict[str, list[dict[str, Any]]]) -> None:
    for table, rows in drained.items():
        assert len(rows) == len(loaded[table]), table
        for one, other in zip(rows, loaded[table], strict=True):
            for column, value in one.items():
                if isinstance(value, float):
                    assert other[column] == pytest.approx(value, rel=1e-9), (table, column)
                elif table == "call_cost_breakdowns" and column == "by_service":
                    assert {k: float(v) for k, v in other[column].items()} == {k: float(v) for k, v in value.items()}
                elif column != "transcript_data":
                    assert other[column] == value, (table, column)


async def test_a_second_time_changes_nothing_and_a_late_one_joins(bridge: Any) -> None:
    given = conversation(1)
    assert await upsert(bridge, "a", given) == await upsert(bridge, "a", given)
    before = await rows_of(bridge, "a")
    late = {
        "recording_url": "https://r/1",
        "provider": None,
        "status": "in_progress",
        "messages": [{"event_id": "late", "role": "user", "content": "one more thing", "timestamp": at(299)}],
    }
    await upsert(bridge, "a", late)
    after = await rows_of(bridge, "a")
    [session] = after["call_sessions"]
    assert (session["recording_url"], session["provider"], session["status"]) == (
        late["recording_url"],
        "twilio",
        "completed",
    )
    assert len(after["call_messages"]) == len(before["call_messages"]) + 1
    assert "one more thing" in after["call_transcripts"][0]["transcript_text"]
    assert session["total_messages"] == len(after["call_messages"])
    assert sorted(row["sequence"] for row in after["call_messages"]) == list(range(1, session["total_messages"] + 1))
    assert session["drains"] == 3


async def test_a_drain_and_a_loader_join_the_same_call(bridge: Any) -> None:
    given = conversation(2)
    half = {key: value[::2] if key in KEYS else value for key, value in given.items()}
    other = {key: value[1::2] for key, value in given.items() if key in KEYS}
    await upsert(bridge, "a", half)
    await bridge.ask("a", as_fields(other))
    await bridge.drain()
    await bridge.ask("whole", as_fields(given))
    await bridge.drain()
    whole, joined = await rows_of(bridge, "whole"), await rows_of(bridge, "a")
    whole["call_sessions"][0]["drains"] = joined["call_sessions"][0]["drains"]
    assert_same(whole, joined)


async def test_a_batch_says_what_became_of_each(bridge: Any) -> None:
    good = {"status": "completed", "messages": [{"role": "user", "content": "hi"}]}
    assert await batch(
        bridge,
        {"call_sid": "z", **good},
        {"call_sid": "b", **good, "messages": [{"role": "user"}]},
        {"call_sid": "a", **good},
        {"call_sid": "z", **good},
        {"call_sid": "c", "status": "odd"},
        {**good},
        {"call_sid": "d", "messages": [{"event_id": "1", "role": "user", "content": "x"}] * 2},
        {"call_sid": "e", "started_at": "yesterday-ish"},
        7,
    ) == [
        (1, "z", "inserted", None),
        (2, "b", "failed", anything("content")),
        (3, "a", "inserted", None),
        (4, "z", "exists", None),
        (5, "c", "failed", anything("status")),
        (6, None, "failed", anything("call_sid")),
        (7, "d", "failed", anything("second time")),
        (8, "e", "failed", anything("timestamp")),
        (9, None, "failed", anything("call_sid")),
    ]
    book = await bridge.rows("SELECT call_sid, state, status, drains FROM call_sids ORDER BY 1")
    assert [tuple(row.values()) for row in book] == [
        ("a", "archived", "completed", 1),
        ("z", "archived", "completed", 1),
    ]
    assert len(await bridge.rows("SELECT 1 FROM call_sessions")) == 2
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="array"):
        await bridge.rows("SELECT * FROM batch_insert_conversations('{}')")


def anything(word: str) -> Any:
    """Equal to any text that has this word."""

    class Anything:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, str) and word in other

        def __hash__(self) -> int:
            return 0

        def __repr__(self) -> str:
            return f"<anything with {word}>"

    return Anything()


@pytest.mark.parametrize(
    ("prepare", "given", "message"),
    [
        ("UPDATE call_sids SET state = 'retired'", {"summary": "x"}, "was retired"),
        ("SELECT", {"tenant_id": "bolt"}, "another tenant"),
        ("UPDATE call_sids SET drains = 0", {"summary": "x"}, "still live"),
        ("SELECT", {}, "nothing in this"),
    ],
)
async def test_what_may_not_be_loaded(bridge: Any, prepare: str, given: dict[str, Any], message: str) -> None:
    await upsert(bridge, "a", {"tenant_id": "acme", "status": "completed"})
    await bridge.rows(f"WITH done AS ({prepare} RETURNING 1) SELECT 1" if prepare != "SELECT" else "SELECT 1")
    with pytest.raises(psycopg.Error, match=message):
        await upsert(bridge, "a", given)


async def test_a_sid_that_is_used_again_is_another_call(bridge: Any) -> None:
    first = await upsert(bridge, "a", {"started_at": at(0), "ended_at": at(10)})
    second = await upsert(bridge, "a", {"started_at": at(60), "ended_at": at(70)})
    assert first != second
    rows = await bridge.rows("SELECT generation FROM call_sessions WHERE call_sid = 'a' ORDER BY 1")
    assert [row["generation"] for row in rows] == [1, 2]


async def test_two_who_load_the_same_calls_in_other_orders_do_not_wait_for_each_other(
    bridge: Any, bridge_with: Callable[..., Any]
) -> None:
    import asyncio

    calls = [{"call_sid": f"c{n}", "messages": [{"role": "user", "content": "x"}]} for n in range(40)]
    connections = bridge.bridge.connections

    async def load(order: list[dict[str, Any]]) -> list[str]:
        async with connections.transaction() as connection:
            query = "SELECT result FROM batch_insert_conversations(%s::jsonb)"
            rows = await (await connection.execute(query, [json.dumps(order)])).fetchall()
        return [row[0] for row in rows]

    results = await asyncio.gather(load(calls), load(calls[::-1]))
    said = sorted(result for each in results for result in each)
    assert said.count("inserted") == 40
    assert len(await bridge.rows("SELECT 1 FROM call_sessions")) == 40
