"""A real pipeline of Pipecat, recorded by an observer, is archived whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

SAID = [
    ("assistant", "Good evening.", None),
    ("user", "Tell me a story.", "ada"),
    ("assistant", "This is a long story that nobody wants to hear to its end.", None),
    ("user", "A table for two, please.", "ada"),
    ("assistant", "You are booked. Goodbye.", None),
]


async def test_a_pipeline_is_recorded(bridge: Any, play: Callable[[str, str], str]) -> None:
    play("play_pipecat.py", "pipecat-test")
    await bridge.drain()
    call = await bridge.call("pipecat-test")
    expected = {
        "provider": "pipecat",
        "status": "completed",
        "finalize_reason": "pipeline ended",
        "finalized_by": "stop",
        "language": "en",
        "completeness": "complete",
        "total_turns": len(SAID),
        "total_interruptions": 1,
        "total_tool_calls": 1,
        "total_prompt_tokens": 60,
        "total_completion_tokens": 15,
        "total_tts_characters": sum(map(len, ("Good evening.", SAID[2][1], "You are booked.", "Goodbye."))),
    }
    assert {name: call[name] for name in expected} == expected
    messages = await bridge.of("pipecat-test", "call_messages")
    assert [(row["role"], row["content"], row["speaker"]) for row in messages] == SAID
    assert [row["turn_number"] for row in messages] == [1, 2, 3, 4, 5]
    assert [row["was_interrupted"] for row in messages] == [False, None, True, None, False]
    assert call["started_at"] <= messages[0]["timestamp"] <= messages[-1]["timestamp"] <= call["ended_at"]
    [interruption] = await bridge.of("pipecat-test", "call_user_interruptions")
    assert interruption["interrupted_at_turn"] == 3
    [tool] = await bridge.of("pipecat-test", "call_tool_calls")
    assert (tool["event_id"], tool["name"], tool["is_error"]) == ("call_book", "book_table", False)
    assert (tool["arguments"], tool["output"]) == ({"party": 2}, {"booked": True})
    metrics = await bridge.of("pipecat-test", "call_metrics")
    counts = Counter((row["metric_type"], row["unit"]) for row in metrics)
    assert counts["llm_ttfb", "ms"] == 3
    assert counts["llm_cached_prompt_tokens", "tokens"] == 3
    assert counts["tts_ttfb", "ms"] >= 2
    assert counts["tts_characters", "characters"] == 4
    assert counts["user_to_bot_latency", "ms"] == 2
    assert {row["model"] for row in metrics if row["metric_type"] == "llm_ttfb"} == {"model-1"}
    assert all(0 < row["value"] < 30_000 for row in metrics)
    assert await bridge.rejects("pipecat-test") == {}


async def test_a_pipeline_without_aggregators_is_recorded(bridge: Any, play: Callable[[str, str], str]) -> None:
    play("play_pipecat_plain.py", "pipecat-plain")
    await bridge.drain()
    call = await bridge.call("pipecat-plain")
    assert (call["status"], call["error_message"], call["total_interruptions"]) == (
        "completed",
        "the model is away",
        1,
    )
    messages = await bridge.of("pipecat-plain", "call_messages")
    assert [(row["role"], row["content"], row["speaker"], row["was_interrupted"]) for row in messages] == [
        ("user", "Hello, who is there?", "ada", None),
        ("assistant", "This is Rossi.", None, True),  # as far as it came
        ("user", "Is it open?", None, None),
        ("assistant", "Goodbye.", None, False),  # said without a model
    ]
    [tool] = await bridge.of("pipecat-plain", "call_tool_calls")
    assert (tool["name"], tool["arguments"], tool["output"], tool["is_error"]) == (
        "opening_hours",
        {"day": "today"},
        None,
        True,
    )
    assert tool["extra"]["cancelled"] is True
    metrics = await bridge.of("pipecat-plain", "call_metrics")
    assert sorted((row["metric_type"], row["value"], row["unit"]) for row in metrics) == [
        ("end_of_turn_delay", 40.0, "ms"),
        ("stt_audio_seconds", 2.5, "seconds"),
        ("stt_delay", 250.0, "ms"),
    ]
