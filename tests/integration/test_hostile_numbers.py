"""Numbers and moments that no column can hold: one event is a reject, its call and its neighbours are archived."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("both_ways")

SAID = {"role": "user", "content": "said", "timestamp": 1_763_632_800}
IMPOSSIBLE = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"]
TOO_WIDE = ["99999999999999999999", "1e300", '"1e300"', '"many"', "2147483648", "1.5"]


@pytest.mark.parametrize("number", IMPOSSIBLE)
async def test_what_is_no_number_rejects_its_event_and_nothing_else(bridge: Any, number: str) -> None:
    fields = {
        "message:start": f'{{"role":"user","content":"x","start_ms":{number}}}',
        "message:extra": f'{{"role":"user","content":"x","own":[{{"a":{number}}}]}}',
        "message:when": f'{{"role":"user","content":"x","timestamp":{number}}}',
        "metric:1": f'{{"metric_type":"llm_ttfb","value":{number}}}',
        "tool:1": f'{{"name":"t","arguments":{{"a":{number}}}}}',
        "rag:1": f'{{"query_text":"q","chunks":[{{"score":{number}}}]}}',
        "rag:2": f'{{"query_text":"q","chunks":[{{"own":{number}}}]}}',
        "extraction:1": f'{{"variables_requested":[],"variables_extracted":{{"a":{number}}}}}',
        "cost:1": f'{{"service":"llm","amount_cents":{number}}}',
        "recording:1": f'{{"recording_sid":"RE1","duration_seconds":{number}}}',
        "metadata": f'{{"a":{number}}}',
        "collected_data": f'{{"a":[{number}]}}',
        "recording_duration_seconds": number,
        "estimated_cost_cents": number,
        "status_sequence": number,
    }
    await bridge.ask("CA1", {**fields, "message:1": SAID, "dtmf:1": f'{{"a":{number}}}', "own": number})
    await bridge.ask("CA2", {"message:1": SAID})
    await bridge.drain()

    rejected = await bridge.rejects("CA1")
    assert rejected == {name.encode(): value.encode() for name, value in fields.items()}
    call = await bridge.call("CA1")
    assert call["total_messages"] == 1
    # What nobody knows is kept as the text that it came as.
    assert call["extra"] == {"dtmf:1": f'{{"a":{number}}}', "own": number}
    assert (await bridge.call("CA2"))["total_messages"] == 1


@pytest.mark.parametrize("number", TOO_WIDE)
async def test_a_number_too_wide_for_its_column_rejects_its_event_alone(bridge: Any, number: str) -> None:
    fields = {
        "message:1": f'{{"role":"user","content":"x","turn_number":{number}}}',
        "transition:1": f'{{"to_node_id":"n","turn_number":{number}}}',
        "interruption:1": f'{{"interrupted_at_turn":{number}}}',
        "recording:1": f'{{"recording_sid":"RE1","channels":{number}}}',
        "rag:1": f'{{"query_text":"q","top_k":{number}}}',
        "rag:2": f'{{"query_text":"q","chunks":[{{"token_count":{number}}}]}}',
    }
    await bridge.ask("CA1", {**fields, "message:2": SAID, "tool:1": f'{{"name":"t","arguments":[{number}]}}'})
    await bridge.drain()
    assert await bridge.rejects("CA1") == {name.encode(): value.encode() for name, value in fields.items()}
    call = await bridge.call("CA1")
    assert (call["total_messages"], call["total_tool_calls"]) == (1, 1)
    [tool] = await bridge.of("CA1", "call_tool_calls")
    expected = json.loads(number)
    assert [type(expected)(argument) for argument in tool["arguments"]] == [expected]


@pytest.mark.parametrize("amount", ["1e1000000", '"1e1000000"', "-1e999999999", "1e-1000000"])
async def test_an_exponent_beyond_all_arithmetic_rejects_its_event_alone(bridge: Any, amount: str) -> None:
    fields = {name: f'{{"service":"llm","{name[5:]}":{amount}}}' for name in ("cost:amount_cents", "cost:usage")}
    await bridge.ask("CA1", {**fields, "message:1": SAID, "estimated_cost_cents": amount.strip('"')})
    await bridge.drain()
    assert (await bridge.call("CA1"))["total_messages"] == 1
    kept = len(await bridge.of("CA1", "call_cost_events")) + len(await bridge.rejects("CA1"))
    assert kept >= 2
    if not amount.startswith("1e-"):
        assert set(await bridge.rejects("CA1")) == {b"cost:amount_cents", b"cost:usage", b"estimated_cost_cents"}


async def test_sums_that_no_column_can_hold_are_left_out_and_their_events_are_kept(bridge: Any) -> None:
    await bridge.ask(
        "CA1",
        {
            "cost:1": {"service": "llm", "usage": 1e13, "unit_price_cents": 1e13},
            "cost:2": {"service": "tts", "amount_cents": 5, "currency": "EUR"},
            "metric:1": {"metric_type": "llm_prompt_tokens", "value": 1e308},
            "metric:2": {"metric_type": "llm_prompt_tokens", "value": 1e308},
            "metric:3": {"metric_type": "user_to_bot_latency", "value": -1.7e308},
            "metric:4": {"metric_type": "user_to_bot_latency", "value": 1.7e308},
            "metric:5": {"metric_type": "llm_completion_tokens", "value": 7},
            "analysis": b'{"sentiment_score":1%s}' % (b"0" * 400),
        },
    )
    await bridge.drain()
    call = await bridge.call("CA1")
    assert await bridge.rejects("CA1") == {}
    assert (call["row_counts"]["call_metrics"], call["row_counts"]["call_cost_events"]) == (5, 2)
    assert (call["total_prompt_tokens"], call["total_llm_tokens"], call["p95_user_to_bot_latency_ms"]) == (
        None,
        7,
        None,
    )
    assert call["total_cost_cents"] == 5
    [breakdown] = await bridge.of("CA1", "call_cost_breakdowns", "currency")
    assert breakdown["currency"] == "EUR"
    await bridge.ask("CA1", {"message:1": SAID})
    await bridge.drain()
    again = await bridge.call("CA1")
    assert again["total_messages"] == 1
    assert again["total_llm_tokens"] == 7


async def test_numbers_at_the_edge_of_their_columns_are_kept_and_joined_to(bridge: Any) -> None:
    edges = {
        "message:1": {
            **SAID,
            "turn_number": 2**31 - 1,
            "tokens_used": 2**63 - 1,
            "start_ms": 1e308,
            "confidence": 5e-324,
        },
        "metric:1": {"metric_type": "mine", "value": -1.7976931348623157e308},
        "cost:1": {"service": "a", "amount_cents": "99999999999998.9999999999"},
        "cost:2": b'{"service":"b","amount_cents":"0.0000000001"}',
        "cost:3": b'{"service":"c","amount_cents":0.123456789012345}',
        "tool:1": b'{"name":"t","arguments":{"big":%s,"float":1e308,"small":1e-300}}' % (b"9" * 4000),
        "estimated_cost_cents": "1e-999999",
        "status_sequence": str(2**63 - 1),
    }
    await bridge.ask("CA1", edges)
    await bridge.drain()
    assert await bridge.rejects("CA1") == {}
    before = [await bridge.of("CA1", table) for table in ("call_messages", "call_metrics", "call_cost_events")]
    [tool] = await bridge.rows("SELECT arguments::text AS arguments FROM call_tool_calls")
    assert tool["arguments"].count("9") == 4000
    assert before[2][2]["amount_cents"] == round(before[2][2]["amount_cents"], 10)
    first = await bridge.call("CA1")
    await bridge.ask("CA1", {"recording_url": "https://example.org/late"})
    await bridge.drain()
    after = [await bridge.of("CA1", table) for table in ("call_messages", "call_metrics", "call_cost_events")]
    assert after == before
    assert (await bridge.call("CA1"))["total_cost_cents"] == first["total_cost_cents"]


async def test_a_key_of_an_index_that_is_too_long_harms_nothing_but_itself(bridge: Any) -> None:
    # Text that cannot be compressed: an entry of a btree is limited to some 2,700 bytes.
    long = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(4000))
    await bridge.ask(
        "CA1",
        {
            "tenant_id": long,
            "message:1": SAID,
            "cost:1": {"service": long, "amount_cents": 1, "currency": long},
            "cost:2": {"service": long, "amount_cents": 1},
            "rag:1": {"query_text": long, "chunks": [{"chunk_id": long, "content": long}]},
            "participant:1": {"identity": long},
            "agent_id": long,
            "agent_name": long,
            long: long,
        },
    )
    await bridge.drain()
    call = await bridge.call("CA1")
    assert [call[name] for name in ("tenant_id", "agent_id", "agent_name", "extra")] == [None, None, long, {long: long}]
    rejected = await bridge.rejects("CA1")
    assert set(rejected) == {b"tenant_id", b"agent_id", b"cost:1"}
    assert rejected[b"tenant_id"] == rejected[b"agent_id"] == long.encode()
    assert [row["service"] for row in await bridge.of("CA1", "call_cost_events")] == [long]


# -- times ------------------------------------------------------------------------------------------------------------

MOMENT = datetime(2026, 11, 20, 10, 0, 0, 250_000, tzinfo=UTC)
FORMS = {
    "iso": "2026-11-20T10:00:00.250Z", "offset": "2026-11-20T15:30:00.250+05:30", "no zone": "2026-11-20 10:00:00.25",
    "seconds": 1_795_168_800.25, "milliseconds": 1_795_168_800_250, "text seconds": "1795168800.25",
    "text milliseconds": "1795168800250", "nanoseconds": "2026-11-20T10:00:00.250000000Z",
    "basic": "20261120T100000.250Z", "comma": "2026-11-20T10:00:00,250000+00:00", "blanks": " 1795168800250 ",
    "basic and long": "2026-11-20T100000.250000+0000", "exact": "2026-11-20T10:00:00.250000+00:00",
}  # fmt: skip
SENSELESS = [
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00",
    "-90000000000", "90000000000000000", "-1", "0", "tomorrow", "2026-13-45", "1e300", "2200-01-02T00:00:00+00:00",
]  # fmt: skip


async def test_a_moment_means_the_same_in_every_form(bridge: Any) -> None:
    for number, form in enumerate(FORMS.values()):
        fields = {
            "message:1": {**SAID, "timestamp": form},
            "participant:1": {"identity": "p", "joined_at": form},
            "dtmf:1": {"timestamp": form},
            "started_at": str(form),
            "ended_at": str(form),
        }
        await bridge.ask(f"CA{number}", fields)
    await bridge.drain()
    for number, name in enumerate(FORMS):
        sid = f"CA{number}"
        assert await bridge.rejects(sid) == {}, name
        call = await bridge.call(sid)
        assert call["started_at"] == call["ended_at"] == MOMENT, name
        for table in ("call_messages", "call_events"):
            assert [row["timestamp"] for row in await bridge.of(sid, table)] == [MOMENT], name
        assert [row["joined_at"] for row in await bridge.of(sid, "call_participants")] == [MOMENT], name
        assert (call["completeness"], call["duration_seconds"]) == ("complete", 0)


async def test_times_without_a_zone_are_in_the_zone_of_the_settings(bridge_with: Any) -> None:
    bridge = await bridge_with(time_zone="Asia/Kolkata")
    await bridge.ask("CA1", {"started_at": "2026-11-20T15:30:00.250", "message:1": {**SAID, "timestamp": FORMS["iso"]}})
    await bridge.drain()
    assert (await bridge.call("CA1"))["started_at"] == MOMENT
    assert (await bridge.of("CA1", "call_messages"))[0]["timestamp"] == MOMENT


@pytest.mark.parametrize("time", SENSELESS)
async def test_a_time_that_makes_no_sense_is_kept_raw_and_the_call_is_partial(bridge: Any, time: str) -> None:
    good = {"started_at": FORMS["iso"], "ended_at": "2026-11-20T10:01:00Z"}
    await bridge.ask("CA1", {**good, "message:1": {**SAID, "timestamp": time}})
    await bridge.ask("CA2", {**good, "started_at": time, "message:1": SAID})
    await bridge.ask(
        "CA3", {**good, "participant:1": {"identity": "p", "left_at": time}, "dtmf:1": {"timestamp": time}}
    )
    await bridge.drain()

    [said] = await bridge.of("CA1", "call_messages")
    assert (said["content"], said["timestamp"], said["extra"]) == ("said", None, {"timestamp_raw": time})
    assert (await bridge.call("CA2"))["extra"] == {"started_at_raw": time}
    assert await bridge.rejects("CA2") == {b"started_at": time.encode()}
    [party] = await bridge.of("CA3", "call_participants")
    assert (party["left_at"], party["duration_seconds"], party["extra"]) == (None, None, {"left_at_raw": time})
    for sid in ("CA1", "CA2", "CA3"):
        call = await bridge.call(sid)
        assert (call["duration_seconds"], call["completeness"]) == (None, "partial")
    [session] = await bridge.rows("SELECT session_month(id)::text AS month FROM call_sessions WHERE call_sid = 'CA2'")
    assert session["month"] == f"{datetime.now(UTC):%Y-%m}-01"


async def test_an_end_before_the_start_is_kept_as_it_is_without_a_duration(bridge: Any) -> None:
    party = {"identity": "p", "joined_at": "2026-11-20T10:05:00Z", "left_at": "2026-11-20T10:00:00Z"}
    await bridge.ask(
        "CA1", {"started_at": "2026-11-20T10:00:00Z", "ended_at": "2026-11-20T09:00:00Z", "participant:1": party}
    )
    await bridge.drain()
    call = await bridge.call("CA1")
    assert call["started_at"] - call["ended_at"] == timedelta(hours=1)
    assert (call["duration_seconds"], call["completeness"]) == (None, "partial")
    assert (await bridge.of("CA1", "call_participants"))[0]["duration_seconds"] is None


async def test_an_event_of_an_unknown_family_with_a_senseless_time_casts_no_doubt_however_often_it_is_drained(
    bridge: Any,
) -> None:
    fields = {"started_at": FORMS["iso"], "ended_at": "2026-11-20T10:01:00Z", "dtmf:1": {"timestamp": "never"}}
    await bridge.ask("CA1", fields)
    await bridge.drain()
    first = await bridge.call("CA1")
    await bridge.ask("CA1", {"recording_url": "https://example.org/late"})
    await bridge.drain()
    again = await bridge.call("CA1")
    assert first["duration_seconds"] == again["duration_seconds"] == 59.75
    assert first["completeness"] == again["completeness"] == "complete"


async def test_a_call_of_another_zone_or_century_lands_in_a_partition(bridge: Any) -> None:
    kolkata = timezone(timedelta(hours=5, minutes=30))
    for number, started in enumerate(
        [datetime(1971, 1, 1, tzinfo=UTC), datetime.now(kolkata), datetime(2199, 1, 1, tzinfo=kolkata)]
    ):
        await bridge.ask(f"CA{number}", {"started_at": started.isoformat(), "message:1": SAID})
    await bridge.drain()
    assert [(await bridge.call(f"CA{number}"))["total_messages"] for number in range(3)] == [1, 1, 1]


async def test_latencies_are_milliseconds_whatever_unit_they_came_in(bridge: Any, bridge_with: Any) -> None:
    fields = {
        "metric:1": {"metric_type": "llm_ttfb", "value": 0.25, "unit": "s"},
        "metric:2": {"metric_type": "llm_ttfb", "value": 250},
        "metric:3": {"metric_type": "llm_ttfb", "value": 250, "unit": "ms"},
        "metric:4": {"metric_type": "llm_ttfb", "value": 250_000, "unit": "us"},
        "metric:5": {"metric_type": "tts_characters", "value": 0.25, "unit": "s"},
        "metric:6": {"metric_type": "own", "value": 0.25, "unit": "s"},
        "metric:8": {"metric_type": "llm_ttfb", "value": 250_000, "unit": " Microseconds "},
    }
    await bridge.ask("CA1", {**fields, "metric:7": {"metric_type": "llm_ttfb", "value": 1e308, "unit": "s"}})
    await bridge.drain()
    rows = await bridge.of("CA1", "call_metrics")
    assert [row["value"] for row in rows] == [250, 250, 250, 250, 0.25, 0.25, 250]
    assert [row["unit"] for row in rows] == ["ms", "ms", "ms", "ms", "s", "s", "ms"]
    assert (await bridge.call("CA1"))["avg_llm_ttfb_ms"] == 250
    assert set(await bridge.rejects("CA1")) == {b"metric:7"}

    in_seconds = await bridge_with(metric_unit="s")
    await in_seconds.ask(
        "CA2", {"metric:1": {"metric_type": "llm_ttfb", "value": 0.25}, "metric:2": fields["metric:3"]}
    )
    await in_seconds.drain()
    assert [row["value"] for row in await in_seconds.of("CA2", "call_metrics")] == [250, 250]
