"""Every summary column of a call, computed again by SQL from its rows, is what the archive says."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from session_bridge.archive.tables import SUMMARY_COLUMNS
from session_bridge.contract.vocabulary import MetricType


def of(kind: MetricType, aggregate: str) -> str:
    return f"SELECT {aggregate} FROM call_metrics WHERE session_id = id AND metric_type = '{kind}'"


def count(table: str, condition: str = "true") -> str:
    return f"SELECT count(*) FROM {table} WHERE session_id = id AND {condition}"


def mean_time(table: str, kind: MetricType) -> str:
    own = f"SELECT avg(processing_time_ms) FROM {table} WHERE session_id = id"
    return f"SELECT coalesce(({own}), ({of(kind, 'avg(value)')}))"


LATENCY = MetricType.USER_TO_BOT_LATENCY
PROMPT, COMPLETION = MetricType.LLM_PROMPT_TOKENS, MetricType.LLM_COMPLETION_TOKENS
# What a charge comes to: its amount, or its usage where that has a price.
CHARGE = "coalesce(amount_cents, usage * unit_price_cents)"

EXPECTED = {
    "duration_seconds": "SELECT extract(epoch FROM ended_at - started_at)::float8",
    "total_turns": "SELECT count(*) FROM (SELECT role, lag(role) OVER (ORDER BY sequence) AS before FROM call_messages "
    "WHERE session_id = id AND role IN ('user', 'assistant')) AS said WHERE role IS DISTINCT FROM before",
    "total_messages": count("call_messages"),
    "total_user_messages": count("call_messages", "role = 'user'"),
    "total_assistant_messages": count("call_messages", "role = 'assistant'"),
    "total_transitions": count("call_transitions"),
    "total_interruptions": count("call_user_interruptions"),
    "total_rag_retrievals": count("call_rag_retrievals"),
    "total_rag_chunks": count("call_rag_chunks"),
    "total_extractions": count("call_extracted_variables"),
    "total_tool_calls": count("call_tool_calls"),
    "avg_stt_delay_ms": of(MetricType.STT_DELAY, "avg(value)"),
    "avg_llm_ttfb_ms": of(MetricType.LLM_TTFB, "avg(value)"),
    "avg_llm_processing_ms": of(MetricType.LLM_PROCESSING_TIME, "avg(value)"),
    "avg_tts_ttfb_ms": of(MetricType.TTS_TTFB, "avg(value)"),
    "avg_user_to_bot_latency_ms": of(LATENCY, "avg(value)"),
    "p95_user_to_bot_latency_ms": of(LATENCY, "percentile_cont(0.95) WITHIN GROUP (ORDER BY value)"),
    "max_user_to_bot_latency_ms": of(LATENCY, "max(value)"),
    "avg_rag_processing_ms": mean_time("call_rag_retrievals", MetricType.RAG_PROCESSING_TIME),
    "avg_extraction_ms": mean_time("call_extracted_variables", MetricType.VARIABLE_EXTRACTION_TIME),
    "total_prompt_tokens": of(PROMPT, "round(sum(value))::bigint"),
    "total_completion_tokens": of(COMPLETION, "round(sum(value))::bigint"),
    "total_llm_tokens": f"SELECT sum(tokens) FROM (VALUES (({of(PROMPT, 'round(sum(value))::bigint')})), "
    f"(({of(COMPLETION, 'round(sum(value))::bigint')}))) AS both_kinds (tokens)",
    "total_tts_characters": of(MetricType.TTS_CHARACTERS, "round(sum(value))::bigint"),
    "total_cost_cents": "SELECT total_cost_cents FROM (SELECT currency, total_cost_cents, count(*) OVER () AS n "
    "FROM call_cost_breakdowns WHERE session_id = id AND by_service <> '{}') AS sums WHERE currency = 'USD' OR n = 1",
}
ROUNDING = 1e-9


async def assert_summaries_are_those_of_the_rows(bridge: Any, calls: int) -> None:
    assert set(EXPECTED) == set(SUMMARY_COLUMNS)
    columns = ", ".join(f"({query}) AS again_{name}" for name, query in EXPECTED.items())
    rows = await bridge.rows(f"SELECT call.*, {columns} FROM call_sessions AS call")
    assert len(rows) == calls
    for row in rows:
        for name in EXPECTED:
            kept, again = row[name], row[f"again_{name}"]
            if isinstance(kept, float):
                assert kept == pytest.approx(again, rel=ROUNDING, abs=ROUNDING), (row["call_sid"], name)
            else:
                assert kept == again, (row["call_sid"], name)
        assert sum(row["row_counts"].values()) > 0
    await assert_breakdowns_are_those_of_the_rows(bridge)


async def assert_breakdowns_are_those_of_the_rows(bridge: Any) -> None:
    """What was reported is the sum of the charges, what holds of its services, what is computed of its lines."""
    charged = (
        f"SELECT round(sum({CHARGE}), 10) FROM call_cost_events AS charge "
        "WHERE charge.session_id = cost.session_id AND charge.currency = cost.currency"
    )
    held = "SELECT round(sum(value::numeric), 10) FROM jsonb_each_text(by_service)"
    lines = "SELECT sum((line->>'amount_cents')::numeric) FROM jsonb_array_elements(computed) AS line"
    rows = await bridge.rows(
        f"SELECT *, ({charged}) AS charged, ({held}) AS held, ({lines}) AS lines FROM call_cost_breakdowns AS cost"
    )
    for row in rows:
        assert row["reported_cents"] == row["charged"], row["session_id"]
        assert row["total_cost_cents"] == (row["held"] or 0), row["session_id"]
        assert row["computed_cents"] == row["lines"], row["session_id"]


@pytest.mark.parametrize("file", ["spoken", "long-conference", "tool-calls-written"])
async def test_the_summaries_of_recorded_calls_are_those_of_their_rows(
    bridge: Any, shared_calls: Path, file: str
) -> None:
    with gzip.open(shared_calls / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        calls = [json.loads(line) for line in islice(lines, 0, None, 15)]
    for call in calls:
        fields: dict[str, Any] = {
            f"message:{turn['seq']}": {"role": turn["role"], "content": turn["text"]} for turn in call["turns"]
        }
        tools = [tool for turn in call["turns"] for tool in turn.get("tool_calls") or ()]
        fields |= {f"tool:{number}": {"name": tool["name"]} for number, tool in enumerate(tools)}
        await bridge.ask(
            call["call_id"], {**fields, "started_at": 1_763_632_800, "ended_at": 1_763_632_800.5 + len(tools)}
        )
    await bridge.drain()
    await assert_summaries_are_those_of_the_rows(bridge, len(calls))


def simulated(chance: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events of every family, sparse and many, in units and currencies that mix."""
    few = chance.choice([0, 1, 2, 30])
    for number in range(chance.randint(0, few * 4)):
        yield (
            f"message:{number}",
            {"role": chance.choice(["user", "assistant", "system", "tool", "bot"]), "content": ""},
        )
    for number in range(chance.randint(0, few * 8)):
        unit = chance.choice([{}, {}, {"unit": "ms"}, {"unit": "s"}])
        yield (
            f"metric:{number}",
            {"metric_type": chance.choice([*MetricType]), "value": chance.expovariate(0.01), **unit},
        )
    for number in range(chance.randint(0, few)):
        time = chance.choice([{}, {"processing_time_ms": chance.uniform(1, 900)}])
        yield f"transition:{number}", {"to_node_id": str(number)}
        yield f"interruption:{number}", {"interrupted_at_turn": number}
        yield f"tool:{number}", {"name": "t"}
        yield f"rag:{number}", {"query_text": "q", "chunks": [{"content": "c"}] * chance.randint(0, 3), **time}
        yield f"extraction:{number}", {"variables_requested": [], "variables_extracted": {}, **time}
        charge: dict[str, float] = chance.choice(
            [
                {"amount_cents": chance.random() * 10},
                {"usage": chance.random(), "unit_price_cents": 0.1 + 0.2},
                {"usage": 5},
            ]
        )
        currency: dict[str, str] = chance.choice([{}, {}, {"currency": "USD"}, {"currency": "EUR"}])
        yield f"cost:{number}", {"service": chance.choice(["llm", "tts"]), **charge, **currency}


async def test_the_summaries_of_simulated_calls_are_those_of_their_rows_also_after_late_data(bridge: Any) -> None:
    chance = random.Random(20261121)
    calls = 150
    late: dict[str, dict[str, Any]] = {}
    for number in range(calls):
        fields = {"started_at": 1_763_632_800, "ended_at": 1_763_632_900.123456, **dict(simulated(chance))}
        late[f"CA{number}"] = {name: event for name, event in fields.items() if chance.random() < 0.3}
        early = {name: event for name, event in fields.items() if name not in late[f"CA{number}"]}
        await bridge.ask(f"CA{number}", {"tool:first": {"name": "t"}, **early})
    await bridge.drain()
    await assert_summaries_are_those_of_the_rows(bridge, calls)

    for sid, fields in late.items():
        await bridge.ask(sid, fields)
    await bridge.drain()
    await assert_summaries_are_those_of_the_rows(bridge, calls)
    merged = [sid for sid, fields in late.items() if fields]
    [row] = await bridge.rows("SELECT count(*) FROM call_sessions WHERE drains = 2")
    assert row["count"] == len(merged) > calls / 2
