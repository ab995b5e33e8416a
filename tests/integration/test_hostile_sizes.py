"""Much of everything: long texts, many events, large fields, deep nesting. Limits make rejects, never crashes."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

MEBIBYTE = 1 << 20

# What a worker's process does with everything that is due, and how many MiB it has held at most. What Linux says of
# resource usage begins with the parent's own; what /proc says begins with the program.
DRAIN_AND_MEASURE = """
import asyncio, pathlib, re, resource, sys
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

async def main(redis_url, database_url):
    async with open_bridge(load_settings(redis_url=redis_url, database_url=database_url)) as bridge:
        await bridge.loop.drain_once()
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        print(int(re.search("VmHWM:\\s+([0-9]+) kB", status.read_text())[1]) // 1024)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)

asyncio.run(main(*sys.argv[1:]))
"""


def said(number: int, **more: Any) -> bytes:
    event = {
        "role": ("user", "assistant")[number % 2],
        "content": f"words {number}",
        "timestamp": 1_763_632_800 + number,
    }
    return json.dumps(event | more).encode()


async def drained_elsewhere(redis_url: str, database_url: str) -> int:
    """Drain in a process of its own, and return how many MiB it held at most."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DRAIN_AND_MEASURE, redis_url, database_url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return int(output.split()[-1])


@pytest.mark.parametrize("events", [10_000, 100_000])
async def test_a_call_of_many_events_is_archived_whole_in_bounded_memory(
    bridge: Any, redis_url: str, database_url: str, events: int
) -> None:
    for start in range(0, events, 10_000):
        await bridge.write("CA1", {f"message:{number}": said(number) for number in range(start, start + 10_000)})
    await bridge.ask("CA1", {"provider": "twilio"})

    held = await drained_elsewhere(redis_url, database_url)

    print(f"{events:,} events: the process held {held} MiB at most")  # noqa: T201
    assert held < 150 + 800 * events / 100_000
    assert (await bridge.call("CA1"))["total_messages"] == events
    [order] = await bridge.rows(
        "SELECT count(*) AS kept, bool_and(event_id = (sequence - 1)::text) AS in_order, "
        "bool_and(content = 'words ' || event_id) AS right "
        "FROM call_messages"
    )
    assert order == {"kept": events, "in_order": True, "right": True}
    assert await bridge.is_gone("CA1")


async def test_late_data_joins_a_call_of_many_events(bridge: Any) -> None:
    await bridge.ask("CA1", {f"message:{number}": said(number) for number in range(10_000)})
    await bridge.drain()
    await bridge.ask("CA1", {"message:10000": said(10_000), "message:5000": said(5000, content="anew")})
    await bridge.drain()
    assert (await bridge.call("CA1"))["total_messages"] == 10_001
    changed = await bridge.rows("SELECT sequence, content FROM call_messages WHERE event_id IN ('5000', '10000')")
    assert {row["sequence"]: row["content"] for row in changed} == {5001: "anew", 10_001: "words 10000"}


async def test_events_past_the_limit_are_rejects_and_the_call_is_archived(bridge_with: Any) -> None:
    bridge = await bridge_with(max_events=100)
    fields = {f"message:{number}".encode(): said(number) for number in range(90)}
    fields |= {f"dtmf:{number}".encode(): b"{}" for number in range(30)}
    await bridge.ask("CA1", fields)
    await bridge.drain()
    call = await bridge.call("CA1")
    rejected = await bridge.rejects("CA1")
    assert len(rejected) == 20
    assert rejected.items() <= fields.items()
    assert (
        sum(call["row_counts"][table] for table in ("call_messages", "call_events") if table in call["row_counts"])
        == 100
    )
    assert call["completeness"] == "partial"


async def test_a_long_message_is_stored_whole_and_can_be_joined_to(bridge_with: Any) -> None:
    bridge = await bridge_with(max_field_bytes=32 * MEBIBYTE)
    long = "Zażółć gęślą jaźń. " * (10 * MEBIBYTE // 26)
    words = " ".join(f"word{number}" for number in range(300_000))
    fields = {
        "message:1": json.dumps({"role": "user", "content": long}, ensure_ascii=False),
        "message:2": json.dumps({"role": "assistant", "content": words}),
        "summary": words,
        "metadata": {"words": words},
    }
    await bridge.ask("CA1", fields)
    await bridge.drain()
    await bridge.ask("CA1", {"recording_url": "https://example.org/late"})
    await bridge.drain()
    assert await bridge.rejects("CA1") == {}
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == [long, words]
    [transcript] = await bridge.of("CA1", "call_transcripts", "1")
    assert transcript["transcript_text"] == f"user: {long}\nassistant: {words}"
    call = await bridge.call("CA1")
    assert (call["summary"], call["metadata"]) == (words, {"words": words})
    assert call["recording_url"] == "https://example.org/late"


async def test_a_field_of_64_megabytes_is_a_reject_with_every_byte_and_the_rest_is_archived(bridge: Any) -> None:
    large = bytes(range(256)) * (64 * MEBIBYTE // 256)
    await bridge.ask("CA1", {b"message:1": large, b"own": large[: 9 * MEBIBYTE], b"message:2": said(2)})
    await bridge.ask("CA2", {b"message:1": said(1)})
    await bridge.drain()
    rejected = await bridge.rejects("CA1")
    assert {name: len(raw) for name, raw in rejected.items()} == {b"message:1": len(large), b"own": 9 * MEBIBYTE}
    assert rejected[b"message:1"] == large
    assert rejected[b"own"] == large[: 9 * MEBIBYTE]
    rows = await bridge.of("CA1", "call_session_rejects", "digest")
    assert {row["reason"] for row in rows} == {"too large"}
    assert (await bridge.call("CA1"))["total_messages"] == (await bridge.call("CA2"))["total_messages"] == 1
    assert await bridge.is_gone("CA1")


async def test_rejects_of_many_megabytes_are_all_kept_though_no_statement_could_carry_them(bridge: Any) -> None:
    # Each is below the limit of a field; they are sent in pieces, for a message has less than a gigabyte.
    large = b"\xff" * (8 * MEBIBYTE)
    for number in range(6):
        await bridge.write("CA1", {f"message:{number}": large[: len(large) - number]})
        await bridge.write(b"\xff", {f"message:{number}": large[: len(large) - number]})
    await bridge.ask("CA1", {"message:said": said(1)})
    await bridge.ask(b"\xff")
    await bridge.drain()
    sizes = [len(large) - number for number in range(6)]
    for table in ("call_session_rejects", "dead_session_fields"):
        kept = await bridge.rows(f"SELECT length(raw) AS size FROM {table} ORDER BY 1 DESC")
        assert [row["size"] for row in kept] == sizes
    assert (await bridge.call("CA1"))["total_messages"] == 1


async def test_the_limit_of_a_field_counts_its_bytes(bridge_with: Any) -> None:
    bridge = await bridge_with(max_field_bytes=1024)
    fits, too_large = {"role": "user", "content": "x" + "ł" * 496}, {"role": "user", "content": "x" + "ł" * 497}
    raw = {name: json.dumps(event, ensure_ascii=False).encode() for name, event in (("fits", fits), ("not", too_large))}
    assert [len(value) for value in raw.values()] == [1024, 1026]
    await bridge.ask("CA1", {f"message:{name}": value for name, value in raw.items()})
    await bridge.drain()
    assert await bridge.rejects("CA1") == {b"message:not": raw["not"]}
    assert [row["event_id"] for row in await bridge.of("CA1", "call_messages")] == ["fits"]


async def test_working_state_that_matches_the_globs_is_left_behind_however_large(bridge: Any) -> None:
    await bridge.ask(
        "CA1",
        {
            "audio_in": b"\xff\x00" * 10, "tts_buffer": b"x" * 100, "audio_out": b"\xff" * (9 * MEBIBYTE),
            "audible": "kept", "buffer_size": "kept", "message:1": said(1),
        },
    )  # fmt: skip
    await bridge.drain()
    assert (await bridge.call("CA1"))["extra"] == {"audible": "kept", "buffer_size": "kept"}
    assert await bridge.rejects("CA1") == {}
    assert await bridge.is_gone("CA1")


async def test_the_globs_are_a_setting(bridge_with: Any) -> None:
    bridge = await bridge_with(ignore_fields="vad_*,flag")
    await bridge.ask("CA1", {"vad_state": "1", "flag": "1", "audio_in": "kept", "flags": "kept"})
    await bridge.drain()
    assert (await bridge.call("CA1"))["extra"] == {"audio_in": "kept", "flags": "kept"}
    await bridge.ask("CA2", {"vad_state": "1", "provider": "twilio"})
    none = await bridge_with(ignore_fields="")
    await none.drain()
    assert (await none.call("CA2"))["extra"] == {"vad_state": "1"}


def nested(levels: int, *, kind: str = "list") -> str:
    return "[" * levels + "]" * levels if kind == "list" else '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("levels", [150, 195, 196, 197, 198, 199, 200, 201, 250, 999, 100_000])
async def test_deep_json_is_kept_or_a_reject_and_is_no_trouble_later(bridge: Any, levels: int, kind: str) -> None:
    deep = nested(levels, kind=kind)
    fields = {
        "tool:1": f'{{"name":"t","arguments":{deep},"output":1}}',
        "message:1": f'{{"role":"user","content":"x","own":{deep}}}',
        "dtmf:1": f'{{"a":{deep}}}',
        "metadata": f'{{"a":{deep}}}',
        "analysis": f'{{"topics":{deep}}}',
        "objections_encountered": f"[{deep}]",
        "transcript_history": f'[{{"role":"user","content":"x","own":{deep}}}]',
        "rag:1": f'{{"query_text":"q","chunks":[{{"own":{deep}}}]}}',
    }
    await bridge.ask("CA1", {**fields, "message:2": said(2)})
    await bridge.ask("CA2", {"message:1": said(1)})
    await bridge.drain()
    for number in (3, 4):
        await bridge.ask("CA1", {f"message:{number}": said(number)})
        await bridge.drain()

    call = await bridge.call("CA1")
    rejected = await bridge.rejects("CA1")
    assert call["total_messages"] == 4 - (b"message:1" in rejected)
    if levels <= 195:
        assert rejected == {}
        assert (await bridge.of("CA1", "call_tool_calls"))[0]["arguments"] == json.loads(deep)
        assert call["metadata"] == {"a": json.loads(deep)}
    if levels > 200:
        expected = fields.keys() - {"dtmf:1"}
        assert {name.decode() for name in rejected} == expected
        assert call["extra"]["dtmf:1"] == fields["dtmf:1"]
    assert [row["call_sid"] for row in await bridge.rows("SELECT call_sid FROM dead_sessions")] == []
