"""A provider's whole report, written as a webhook writes it and drained: the archive has all of the call."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from session_bridge.webhooks.reports import elevenlabs, livekit, retell, vapi

FOLDER = Path(__file__).resolve().parent.parent / "reports"
PROVIDERS: dict[str, Callable[[Any], list[Any]]] = {
    "vapi": vapi.understand,
    "retell": retell.understand,
    "elevenlabs": elevenlabs.understand,
    "livekit": livekit.understand,
}
BEGAN = datetime(2026, 11, 4, 10, tzinfo=UTC)


def body_of(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


async def archive(bridge: Any, *bodies: tuple[str, Any]) -> str:
    """Write what each body says with a plain HSET, ask where it says the end, and drain after each."""
    sid = ""
    for name, body in bodies:
        for news in PROVIDERS[name.split("_")[0]](body):
            sid = news.call_sid
            await (bridge.ask if news.ended else bridge.write)(sid, news.fields)
        await bridge.drain()
    # What came after the archive and does not say that it is the end, the sweep would find.
    await bridge.ask(sid)
    await bridge.drain()
    assert await bridge.rejects(sid) == {}, "not one field that the archive does not understand"
    assert await bridge.is_gone(sid)
    return sid


async def said(bridge: Any, sid: str) -> list[tuple[str, str, float | None]]:
    """What was said, and how many seconds after the beginning."""
    rows = await bridge.of(sid, "call_messages")
    return [
        (row["role"], row["content"], row["timestamp"] and (row["timestamp"] - BEGAN).total_seconds()) for row in rows
    ]


async def measured(bridge: Any, sid: str) -> dict[str, list[tuple[float, str | None]]]:
    metrics: dict[str, list[tuple[float, str | None]]] = {}
    for row in await bridge.of(sid, "call_metrics"):
        metrics.setdefault(row["metric_type"], []).append((row["value"], row["unit"]))
    return metrics


async def charged(bridge: Any, sid: str) -> list[tuple[Any, ...]]:
    rows = await bridge.of(sid, "call_cost_events")
    return [(row["service"], row["amount_cents"], row["usage"], row["unit"], row["model"]) for row in rows]


async def kept(bridge: Any, sid: str) -> dict[str, Any]:
    return {f"{row['family']}:{row['event_id']}": row["payload"] for row in await bridge.of(sid, "call_events")}


def only(row: dict[str, Any], **expected: Any) -> None:
    assert {name: row[name] for name in expected} == expected


async def test_a_report_of_vapi(bridge: Any) -> None:
    sid = await archive(bridge, ("vapi", body_of("vapi")))
    call = await bridge.call(sid)
    only(
        call,
        provider="vapi",
        account_sid="org_1",
        parent_call_sid="CA00000000000000000000000000000001",
        agent_id="as_rossi",
        agent_name="Rossi",
        agent_version="v3",
        user_id="crm-77",
        direction="inbound",
        channel="phone",
        from_number="+15550100",
        to_number="+15550111",
        status="completed",
        end_reason="caller_hangup",
        end_reason_raw="customer-ended-call",
        started_at=BEGAN,
        ended_at=BEGAN + timedelta(seconds=60),
        duration_seconds=60.0,
        recording_url="https://storage.example/mono.wav",
        recording_enabled=True,
        initial_node="greet",
        final_node="reserve",
        summary="A table for two was booked.",
        metadata={"branch": "harbour"},
        collected_data={"party": 2, "time": "20:00", "occasion": "birthday"},
        completeness="complete",
        total_user_messages=1,
        total_assistant_messages=2,
        total_tool_calls=1,
        avg_user_to_bot_latency_ms=900.0,
        max_user_to_bot_latency_ms=940.0,
        avg_llm_ttfb_ms=400.0,
        total_prompt_tokens=820,
        total_completion_tokens=95,
        total_tts_characters=310,
        total_cost_cents=Decimal("12.34"),
        estimated_cost_cents=Decimal("12.34"),
    )
    assert await said(bridge, sid) == [
        ("system", "You take reservations.", 0),
        ("assistant", "Good evening, Trattoria Rossi.", 1),
        ("user", "A table for two at eight.", 5),
        ("assistant", "You are booked.", 10),
    ]
    [_, greeting, wish, _] = await bridge.of(sid, "call_messages")
    only(greeting, start_ms=1000.0, end_ms=3500.0, speaker="Rossi")
    assert wish["extra"]["vapi"]["metadata"]["wordLevelMetadata"] == [{"word": "table", "confidence": 0.97}]
    [tool] = await bridge.of(sid, "call_tool_calls")
    only(
        tool,
        event_id="call_book",
        name="book_table",
        arguments='{"party": 2, "at": "20:00"}',
        output='{"booked": true}',
        duration_ms=750.0,
        timestamp=BEGAN + timedelta(seconds=8),
    )
    nodes = await bridge.of(sid, "call_transitions")
    assert [(node["from_node_id"], node["to_node_id"]) for node in nodes] == [(None, "greet"), ("greet", "reserve")]
    assert nodes[1]["extra"]["vapi"]["variableValues"] == {"party": 2}
    metrics = await measured(bridge, sid)
    assert metrics["user_to_bot_latency"] == [(940.0, "ms"), (860.0, "ms")]
    assert metrics["tts_ttfb"] == [(130.0, "ms"), (110.0, "ms")]
    assert metrics["stt_delay"] == [(90.0, "ms"), (80.0, "ms")]
    assert metrics["end_of_turn_delay"] == [(300.0, "ms"), (290.0, "ms")]
    assert metrics["llm_cached_prompt_tokens"] == [(200.0, None)]
    assert metrics["turnLatencyAverage"] == [(900.0, "ms")]
    assert metrics["numAssistantInterrupted"] == [(1.0, "count")]
    assert await charged(bridge, sid) == [
        ("transport", 1, 1, "minutes", None),
        ("transcriber", 2, 1, "minutes", "nova-3"),
        ("model", Decimal("3.34"), None, None, "gpt-4o"),
        ("voice", 3, 310, "characters", None),
        ("vapi", 3, 1, "minutes", None),
    ]
    recordings = {
        row["track"]: (row["recording_url"], row["channels"]) for row in await bridge.of(sid, "call_recordings")
    }
    assert recordings == {
        "mono": ("https://storage.example/mono.wav", 1),
        "stereo": ("https://storage.example/stereo.wav", 2),
        "assistant": ("https://storage.example/assistant.wav", 1),
        "customer": ("https://storage.example/customer.wav", 1),
    }
    [analysis] = await bridge.of(sid, "call_analysis", "summary")
    only(analysis, success=True, summary="A table for two was booked.")
    rest = await kept(bridge, sid)
    assert rest["vapi:transfer-0001"]["destination"]["number"] == "+15550122"
    message = rest["vapi:end-of-call-report"]["message"]
    assert (message["customer"], message["artifact"]["logUrl"]) == ({"name": "Ada"}, "https://storage.example/call.log")


async def test_vapis_own_example(bridge: Any, shared_calls: Path) -> None:
    vectors = json.loads((shared_calls.parent / "vectors" / "vapi_server_messages.json").read_text(encoding="utf-8"))
    [message] = [item["message"] for item in vectors["messages"] if item["message"]["type"] == "end-of-call-report"]
    body = copy.deepcopy(message)
    body["call"]["id"] = "call_of_the_documentation"
    sid = await archive(bridge, ("vapi", {"message": body}))
    assert await said(bridge, sid) == [("assistant", "How can I help?", None), ("user", "What's the weather?", None)]
    only(await bridge.call(sid), status="completed", end_reason="unknown", end_reason_raw="hangup")
    assert (await kept(bridge, sid))["vapi:end-of-call-report"]["message"]["artifact"]["transcript"].startswith(
        "AI: How"
    )


RETELL = ("retell_call_started", "retell_call_ended", "retell_call_analyzed")


async def test_the_webhooks_of_retell(bridge: Any) -> None:
    sid = await archive(bridge, *[(name, body_of(name)) for name in RETELL])
    only(
        await bridge.call(sid),
        provider="retell",
        parent_call_sid="CA00000000000000000000000000000002",
        agent_id="agent_rossi",
        agent_name="Rossi",
        agent_version="4",
        direction="inbound",
        channel="phone",
        from_number="+15550100",
        to_number="+15550111",
        status="completed",
        end_reason="caller_hangup",
        end_reason_raw="user_hangup",
        started_at=BEGAN,
        duration_seconds=60.0,
        recording_url="https://storage.example/r.wav",
        initial_node="n1",
        final_node="n2",
        metadata={"crm": "77"},
        collected_data={"party": "2"},
        summary="A table for two was booked.",
        completeness="complete",
        avg_user_to_bot_latency_ms=800.0,
        p95_user_to_bot_latency_ms=890.0,
        avg_llm_ttfb_ms=450.0,
        avg_tts_ttfb_ms=120.0,
        avg_stt_delay_ms=60.0,
        total_cost_cents=Decimal("12.75"),
        estimated_cost_cents=Decimal("12.75"),
    )
    assert await said(bridge, sid) == [
        ("assistant", "Good evening.", 1),
        ("user", "Two, please.", 3.25),
        ("assistant", "Done.", 9),
    ]
    [_, wish, _] = await bridge.of(sid, "call_messages")
    only(wish, start_ms=3250.0, end_ms=4150.0)
    assert [word["word"] for word in wish["extra"]["retell"]["words"]] == ["Two,", "please."]
    [tool] = await bridge.of(sid, "call_tool_calls")
    only(tool, name="book_table", arguments='{"party":2}', output='{"booked":true}', is_error=False)
    assert tool["extra"]["tool_call_id"] == "tool_1"
    [node] = await bridge.of(sid, "call_transitions")
    only(
        node,
        from_node_id="n1",
        from_node_name="Greeting",
        to_node_id="n2",
        to_node_name="Booking",
        condition="normal",
    )
    metrics = await measured(bridge, sid)
    assert metrics["user_to_bot_latency"] == [(700.0, "ms"), (800.0, "ms"), (900.0, "ms")]
    assert metrics["llm_tokens"] == [(300.0, "tokens"), (400.0, "tokens")]
    costs = await bridge.of(sid, "call_cost_events")
    assert [(row["service"], row["amount_cents"], row["unit_price_cents"], row["unit"]) for row in costs] == [
        ("elevenlabs_tts", 7, Decimal("0.1166666667"), "second"),
        ("gpt_4o", Decimal("4.8"), Decimal("0.08"), "second"),
        ("us_telephony", Decimal("0.95"), None, None),
    ]
    recordings = {
        row["track"]: (row["recording_url"], row["channels"]) for row in await bridge.of(sid, "call_recordings")
    }
    assert recordings == {
        "mono": ("https://storage.example/r.wav", 1),
        "multi_channel": ("https://storage.example/r2.wav", 2),
    }
    [analysis] = await bridge.of(sid, "call_analysis", "summary")
    assert analysis["data"]["custom_analysis_data"] == {"occasion": "birthday"}
    only(analysis, sentiment="Positive", success=True, summary="A table for two was booked.")
    rest = await kept(bridge, sid)
    assert rest["retell:item-000006"] == {"role": "dtmf", "digit": "1"}
    assert rest["retell:call_ended"]["call"]["latency"]["e2e"]["p50"] == 800
    assert rest["retell:call_ended"]["call"]["public_log_url"] == "https://storage.example/r.log"


CONTENT = (
    "call_messages",
    "call_tool_calls",
    "call_transitions",
    "call_metrics",
    "call_cost_events",
    "call_recordings",
)


async def test_the_webhooks_of_retell_in_any_order_and_twice_make_one_archive(bridge: Any) -> None:
    bodies = [(name, body_of(name)) for name in RETELL]
    seen = []
    for number, order in enumerate(itertools.permutations([*bodies, bodies[1]])):
        written = copy.deepcopy(order)
        for _, body in written:
            body["call"]["call_id"] = f"call_{number}"
        sid = await archive(bridge, *written)
        row = await bridge.call(sid)
        state = {
            name: row[name] for name in ("status", "end_reason_raw", "duration_seconds", "collected_data", "summary")
        }
        rows = [
            [
                {name: value for name, value in row.items() if name != "session_id"}
                for row in await bridge.of(sid, table)
            ]
            for table in CONTENT
        ]
        seen.append((state, rows, sorted(await kept(bridge, sid))))
    assert len(seen) == 24
    assert seen[0][0]["status"] == "completed"
    for other in seen[1:]:
        assert other == seen[0]


async def test_a_transcription_of_elevenlabs(bridge: Any) -> None:
    sid = await archive(bridge, ("elevenlabs", body_of("elevenlabs")))
    only(
        await bridge.call(sid),
        provider="elevenlabs",
        parent_call_sid="CA00000000000000000000000000000003",
        stream_sid="MZ01",
        agent_id="agent_rossi",
        agent_name="Rossi",
        agent_version="agtvrsn_1",
        user_id="crm-77",
        direction="inbound",
        from_number="+15550100",
        to_number="+15550111",
        language="en",
        status="completed",
        end_reason="agent_hangup",
        end_reason_raw="end_call tool was called.",
        started_at=BEGAN,
        answered_at=BEGAN,
        duration_seconds=60.0,
        initial_node="greet",
        final_node="book",
        collected_data={"party": 2},
        summary="A table for two was booked.",
        completeness="complete",
        total_user_messages=1,
        total_assistant_messages=2,
        total_rag_retrievals=1,
        total_rag_chunks=1,
        avg_rag_processing_ms=180.0,
        avg_llm_ttfb_ms=370.0,
        avg_tts_ttfb_ms=120.0,
        total_prompt_tokens=510,
        total_completion_tokens=45,
        total_cost_cents=Decimal("8.75"),
        estimated_cost_cents=Decimal("8.75"),
    )
    assert await said(bridge, sid) == [
        ("assistant", "Good evening.", 0),
        ("user", "Do you have vegan dishes? And a table for two.", 2),
        ("assistant", "We do, and you are booked.", 7),
    ]
    [greeting, _, answer] = await bridge.of(sid, "call_messages")
    only(greeting, was_interrupted=True, node_id="greet", start_ms=0.0)
    only(answer, was_interrupted=False, node_id="book", model="gemini-2.5-flash", start_ms=7000.0)
    [tool] = await bridge.of(sid, "call_tool_calls")
    only(
        tool,
        name="book_table",
        arguments='{"party": 2}',
        output="booked",
        is_error=False,
        duration_ms=750.0,
        timestamp=BEGAN + timedelta(seconds=5),
    )
    nodes = await bridge.of(sid, "call_transitions")
    assert [(node["from_node_id"], node["to_node_id"]) for node in nodes] == [(None, "greet"), ("greet", "book")]
    [retrieval] = await bridge.of(sid, "call_rag_retrievals", "query_sequence")
    only(retrieval, query_text="vegan dishes", search_mode="vector", processing_time_ms=180.0)
    [chunk] = await bridge.of(sid, "call_rag_chunks", "chunk_rank")
    only(chunk, chunk_id="chunk_7", document_id="doc_menu")
    metrics = await measured(bridge, sid)
    assert metrics["convai_llm_service_ttf_sentence"] == [(555.0, "ms")]
    assert metrics["llm_cached_prompt_tokens"] == [(64.0, "tokens")]
    assert await charged(bridge, sid) == [
        ("elevenlabs", None, 296, "credits", None),
        ("llm", Decimal("0.25"), None, None, None),
        ("platform", Decimal("8.5"), None, None, None),
    ]
    [analysis] = await bridge.of(sid, "call_analysis", "summary")
    only(analysis, success=True, summary="A table for two was booked.")
    assert analysis["data"]["evaluation_criteria_results"]["polite"]["rationale"] == "It was."
    rest = (await kept(bridge, sid))["elevenlabs:post_call_transcription"]["data"]
    assert rest["conversation_initiation_client_data"]["dynamic_variables"] == {"user_name": "Ada"}
    assert rest["metadata"]["warnings"] == ["low credits"]


async def test_sound_after_a_transcription_changes_no_word(bridge: Any) -> None:
    body = body_of("elevenlabs")
    sound = {
        "type": "post_call_audio",
        "data": {**{name: body["data"][name] for name in ("agent_id", "conversation_id")}, "full_audio": "SUQz" * 1000},
    }
    sid = await archive(bridge, ("elevenlabs", body), ("elevenlabs", sound))
    assert len(await said(bridge, sid)) == 3
    row = await bridge.call(sid)
    only(row, status="completed", duration_seconds=60.0, extra=None)


async def test_a_session_report_of_livekit(bridge: Any) -> None:
    sid = await archive(bridge, ("livekit", body_of("livekit")))
    assert sid == "RM_1"
    only(
        await bridge.call(sid),
        provider="livekit",
        room_name="table-for-two",
        agent_name="rossi",
        status="completed",
        end_reason="caller_hangup",
        end_reason_raw="CR_PARTICIPANT_DISCONNECTED",
        started_at=BEGAN,
        ended_at=BEGAN + timedelta(seconds=9.5),
        duration_seconds=9.5,
        recording_url="/recordings/RM_1.ogg",
        initial_node="greeter",
        final_node="closer",
        completeness="complete",
        total_interruptions=1,
        avg_llm_ttfb_ms=275.0,
        avg_tts_ttfb_ms=125.0,
        avg_user_to_bot_latency_ms=812.0,
        total_prompt_tokens=300,
        total_completion_tokens=40,
        total_tts_characters=52,
    )
    assert await said(bridge, sid) == [
        ("assistant", "Good evening, Trattoria Rossi.", 1),
        ("user", "A table for two, please.", 4),
        ("assistant", "Done, see you at eight", 7),
    ]
    messages = await bridge.of(sid, "call_messages")
    assert [row["event_id"] for row in messages] == ["item_m1", "item_m2", "item_m3"]
    assert [row["was_interrupted"] for row in messages] == [False, False, True]
    assert messages[1]["confidence"] == 0.94
    [tool] = await bridge.of(sid, "call_tool_calls")
    only(tool, event_id="call_1", name="book_table", arguments='{"party": 2}', output="booked", is_error=False)
    [interruption] = await bridge.of(sid, "call_user_interruptions")
    only(interruption, interrupted_at_turn=3, timestamp=BEGAN + timedelta(seconds=7))
    metrics = await measured(bridge, sid)
    assert metrics["transcription_delay"] == [(200.0, "ms")]
    assert metrics["end_of_turn_delay"] == [(500.0, "ms")]
    assert metrics["e2e_latency"] == metrics["user_to_bot_latency"] == [(812.0, "ms")]
    assert metrics["tts_audio_seconds"] == [(3.5, "seconds")]
    assert metrics["stt_audio_seconds"] == [(2.25, "seconds")]
    assert metrics["llm_cached_prompt_tokens"] == [(100.0, "tokens")]
    rest = await kept(bridge, sid)
    assert [name for name in rest if name.startswith("livekit:event")] == [
        "livekit:event-000001",
        "livekit:event-000003",
        "livekit:event-000004",
    ], "all but the one that says a message again"
    assert rest["livekit:session_report"]["tags"] == ["vip"]


@pytest.mark.parametrize("name", ["vapi", "retell_call_analyzed", "elevenlabs", "livekit"])
async def test_a_report_that_comes_twice_leaves_the_rows_alone(bridge: Any, name: str) -> None:
    sid = await archive(bridge, (name, body_of(name)))
    before = [await bridge.of(sid, table) for table in CONTENT]
    digest = (await bridge.call(sid))["content_digest"]
    assert await archive(bridge, (name, body_of(name))) == sid
    assert [await bridge.of(sid, table) for table in CONTENT] == before
    assert (await bridge.call(sid))["content_digest"] == digest
