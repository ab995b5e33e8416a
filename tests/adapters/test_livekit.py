"""A real session of LiveKit Agents, recorded by one line, is archived whole, and its own report adds nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from session_bridge.webhooks.reports import livekit

SAID = [
    ("assistant", "Good evening."),
    ("user", "A table for two, please."),
    ("assistant", "One moment."),
    ("assistant", "You are booked."),
    ("user", "Break it"),
    ("assistant", "That did not work."),
    ("user", "Can I talk to somebody?"),
    ("assistant", "Bo speaking."),
    ("assistant", "This is a long story that nobody wants to hear to its end."),
]
TABLES = ("call_messages", "call_tool_calls", "call_transitions", "call_metrics", "call_user_interruptions")


async def test_a_session_is_recorded_and_its_report_says_the_same(bridge: Any, play: Callable[[str, str], str]) -> None:
    *_, last = play("play_livekit.py", "RM_test").strip().splitlines()
    report = json.loads(last)
    await bridge.drain()
    await is_archived(bridge)
    before = {table: await bridge.of("RM_test", table) for table in TABLES}

    [news] = livekit.understand(report)
    assert news.call_sid == "RM_test"
    await bridge.ask("RM_test", news.fields)
    await bridge.drain()
    after = {table: await bridge.of("RM_test", table) for table in TABLES}
    for table in TABLES:
        names = [sorted(row["event_id"] for row in rows[table]) for rows in (before, after)]
        assert names[0] == names[1], table
    assert [(row["role"], row["content"]) for row in after["call_messages"]] == SAID
    assert values(after["call_metrics"]) == values(before["call_metrics"])
    assert await bridge.rejects("RM_test") == {}


def values(rows: list[dict[str, Any]]) -> dict[str, tuple[float, str]]:
    return {row["event_id"]: (round(row["value"], 6), row["unit"]) for row in rows}


async def is_archived(bridge: Any) -> None:
    call = await bridge.call("RM_test")
    expected = {
        "provider": "livekit",
        "room_name": "a-room",
        "status": "completed",
        "end_reason": "agent_hangup",
        "end_reason_raw": "user_initiated",
        "finalized_by": "stop",
        "completeness": "complete",
        "initial_node": "ann",
        "final_node": "bo",
        "total_interruptions": 1,
        "total_tool_calls": 3,
        "total_prompt_tokens": 120,
        "total_completion_tokens": 30,
        "total_tts_characters": 127,
    }
    assert {name: call[name] for name in expected} == expected
    assert call["duration_seconds"] > 0
    messages = await bridge.of("RM_test", "call_messages")
    assert [(row["role"], row["content"]) for row in messages] == SAID
    assert [row["was_interrupted"] for row in messages] == [False] * 8 + [True]
    tools = await bridge.of("RM_test", "call_tool_calls")
    assert [(row["event_id"], row["name"], row["arguments"], row["output"], row["is_error"]) for row in tools] == [
        ("call_book", "book_table", '{"party": 2}', "booked for 2", False),
        ("call_fail", "fail", "{}", "An internal error occurred", True),
        ("call_person", "to_a_person", "{}", "Now to Bo", False),
    ]
    nodes = await bridge.of("RM_test", "call_transitions")
    assert [(row["from_node_id"], row["to_node_id"]) for row in nodes] == [(None, "ann"), ("ann", "bo")]
    [interruption] = await bridge.of("RM_test", "call_user_interruptions")
    assert interruption["interrupted_at_turn"] == len(SAID)
    metrics = await bridge.of("RM_test", "call_metrics")
    assert Counter((row["metric_type"], row["unit"]) for row in metrics) == {
        ("llm_ttfb", "ms"): 3,
        ("tts_ttfb", "ms"): 6,
        ("llm_prompt_tokens", "tokens"): 1,
        ("llm_completion_tokens", "tokens"): 1,
        ("llm_cached_prompt_tokens", "tokens"): 1,
        ("tts_characters", "characters"): 1,
        ("tts_audio_seconds", "seconds"): 1,
    }
    assert all(row["value"] > 0 for row in metrics)
