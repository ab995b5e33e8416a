"""Text that PostgreSQL cannot hold, or that COPY could take for its own: every byte is archived or in a reject."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("both_ways")

SPECIALS = [
    "\x1d", "\x1e", "\x1f", "\\N", "\\.", "\\", "\\\\", "\t", "\r\n", "\n", "\r", "\x1f\x1e\x1d\\N\n\\.\r\n\t",
    "\\x1f", "\\u0041", "\x01\x08\x7f\x85\u2028", '"\'$$%s{}', "\U0001f642\u202eabc\ufffd", "łńźśżęóąć",
]  # fmt: skip


def message(content: str, **more: Any) -> str:
    return json.dumps({"role": "user", "content": content, "timestamp": 1_763_632_800, **more}, ensure_ascii=False)


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as it is"])
async def test_what_copy_takes_for_its_own_is_kept_to_the_byte_in_every_kind_of_text(
    bridge: Any, escaped: bool
) -> None:
    def dump(value: object) -> str:
        return json.dumps(value, ensure_ascii=escaped)

    for number, text in enumerate(SPECIALS):
        chunk = {"chunk_id": text, "content": text, "filename": text, "own": text}
        fields = {
            "summary": f"<{text}>",
            "agent_name": f"<{text}>",
            "tenant_id": f"<{text}>",
            f"own_{text}": f"<{text}>",
            "collected_data": dump({text: [text]}),
            "metadata": dump({"a": text}),
            "objections_encountered": dump([text]),
            "analysis": dump({"sentiment": f"<{text}>", "topics": [text]}),
            "message:1": dump({"role": "user", "content": text, "speaker": f"<{text}>", "own": text}),
            "message:2": dump({"role": "user", "content": f"{text}{text}", "own": {text: text}}),
            "tool:1": dump({"name": f"<{text}>", "arguments": text, "output": {text: text}}),
            "transition:1": dump({"to_node_id": f"<{text}>", "reason": text}),
            "rag:1": dump({"query_text": text, "chunks": [chunk]}),
            "cost:1": dump({"service": f"<{text}>", "amount_cents": 1, "currency": f"<{text}>"}),
            "dtmf:1": dump({text: text}),
        }
        await bridge.ask(f"CA{number}", fields)
    await bridge.drain()

    for number, text in enumerate(SPECIALS):
        sid = f"CA{number}"
        assert await bridge.rejects(sid) == {}, text
        call = await bridge.call(sid)
        assert call["summary"] == call["agent_name"] == call["tenant_id"] == f"<{text}>"
        assert call["extra"] == {f"own_{text}": f"<{text}>"}
        assert (call["collected_data"], call["metadata"]) == ({text: [text]}, {"a": text})
        assert call["objections_encountered"] == [text]
        first, second = await bridge.of(sid, "call_messages")
        assert (first["content"], first["speaker"], first["extra"]) == (text, f"<{text}>", {"own": text})
        assert (second["content"], second["extra"]) == (text * 2, {"own": {text: text}})
        [tool] = await bridge.of(sid, "call_tool_calls")
        assert (tool["name"], tool["arguments"], tool["output"]) == (f"<{text}>", text, {text: text})
        [transition] = await bridge.of(sid, "call_transitions")
        assert (transition["to_node_id"], transition["reason"]) == (f"<{text}>", text)
        [chunk] = await bridge.of(sid, "call_rag_chunk_texts", "chunk_rank")
        assert chunk["chunk_id"] == chunk["content"] == chunk["filename"] == chunk["extra"]["own"] == text
        [transcript] = await bridge.of(sid, "call_transcripts", "1")
        assert transcript["transcript_text"] == f"<{text}>: {text}\nuser: {text}{text}"
        [breakdown] = await bridge.of(sid, "call_cost_breakdowns", "1")
        assert (breakdown["currency"], list(breakdown["by_service"])) == (f"<{text}>", [f"<{text}>"])
        [analysis] = await bridge.of(sid, "call_analysis", "1")
        assert (analysis["sentiment"], analysis["topics"]) == (f"<{text}>", [text])
        [unknown] = await bridge.of(sid, "call_events")
        assert unknown["payload"] == {text: text}


async def test_what_copy_takes_for_its_own_survives_a_merge(bridge: Any) -> None:
    text = "\x1f\x1e\x1d\\N\n\\.\r\n\t\ufffd"
    await bridge.ask("CA1", {"message:1": message(text), "tool:1": json.dumps({"name": text, "arguments": text})})
    await bridge.drain()
    await bridge.ask("CA1", {"message:2": message(text, own=text), "summary": text})
    await bridge.drain()

    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == [text, text]
    [tool] = await bridge.of("CA1", "call_tool_calls")
    assert (tool["name"], tool["arguments"]) == (text, text)
    assert (await bridge.call("CA1"))["summary"] == text
    assert await bridge.rejects("CA1") == {}


UNSTORABLE = {
    "an escaped NUL": (b'"a\\u0000b"', "ab"),
    "a raw NUL": (b'"a\x00b"', "ab"),
    "a lone surrogate, escaped": (b'"a\\ud800b"', "a\ufffdb"),
    "a low surrogate, escaped": (b'"a\\udc00b"', "a\ufffdb"),
    "a surrogate in raw UTF-8": (b'"a\xed\xa0\x80b"', "a\ufffd\ufffd\ufffdb"),
    "a byte that is not UTF-8": (b'"a\xffb"', "a\ufffdb"),
    "half a character": (b'"a\xc5"', "a\ufffd"),
}


@pytest.mark.parametrize("kind", UNSTORABLE)
async def test_text_that_cannot_be_held_is_kept_without_it_and_raw_in_a_reject(bridge: Any, kind: str) -> None:
    raw, kept = UNSTORABLE[kind]
    fields = {
        b"message:value": b'{"role":"user","content":%s}' % raw,
        b"message:key": b'{"role":"user","content":"fine",%s:1}' % raw,
        b"tool:1": b'{"name":"t","arguments":{%s:%s}}' % (raw, raw),
        b"rag:1": b'{"query_text":%s,"chunks":[{"content":%s}]}' % (raw, raw),
        b"dtmf:1": b'{"digit":%s}' % raw,
        b"collected_data": b"{%s:[%s]}" % (raw, raw),
        b"transcript_history": b'[{"role":"user","content":%s}]' % raw,
        b"summary": json.loads(raw, strict=False).encode("utf-8", "surrogatepass") if b"\\" in raw else raw[1:-1],
    }
    fields[b"own"] = fields[b"summary"]
    await bridge.ask("CA1", fields)
    await bridge.ask("CA2", {"message:1": message("beside it")})
    await bridge.drain()

    assert await bridge.rejects("CA1") == fields, "each is kept raw as well"
    rows = await bridge.of("CA1", "call_session_rejects", "digest")
    assert {row["reason"] for row in rows} == {"cleaned"}
    by_id = {row["event_id"]: row for row in await bridge.of("CA1", "call_messages")}
    assert by_id["value"]["content"] == kept
    assert by_id["key"]["extra"] == {kept: 1}
    [tool] = await bridge.of("CA1", "call_tool_calls")
    assert tool["arguments"] == {kept: kept}
    [chunk] = await bridge.of("CA1", "call_rag_chunk_texts", "chunk_rank")
    assert chunk["content"] == kept
    [unknown] = await bridge.of("CA1", "call_events")
    assert unknown["payload"] == {"digit": kept}
    call = await bridge.call("CA1")
    assert call["collected_data"] == {kept: [kept]}
    assert call["summary"].replace("\ufffd", "") == kept.replace("\ufffd", "")
    assert call["status"] == "completed"
    assert (await bridge.of("CA2", "call_messages"))[0]["content"] == "beside it"
    assert await bridge.is_gone("CA1")


async def test_a_cleaned_field_that_makes_no_sense_is_one_reject_and_not_archived(bridge: Any) -> None:
    fields = {
        b"started_at": b"tomor\x00row",
        b"recording_enabled": b"\xff",
        b"message:1": b'{"role":"user\\u0000"}',
        b"cost:1": b'{"service":"llm\\ud800"}',
    }
    await bridge.ask("CA1", fields)
    await bridge.drain()
    rows = await bridge.of("CA1", "call_session_rejects", "digest")
    assert {bytes(row["field_raw"]): bytes(row["raw"]) for row in rows} == fields
    assert {row["reason"] for row in rows} == {"not a valid value", "not a valid event"}


async def test_field_names_that_are_no_text_are_rejects_whole(bridge: Any) -> None:
    fields = {
        b"own\xff": b"1", b"own\x00": b"2", b"\xed\xa0\x80": b"3", b"": b"4", b"message:\xff": b"{}",
        b"message:a b": b"{}", b"message:": b"{}", b"message:" + b"x" * 65: b"{}", b"message:1:2": b"{}",
    }  # fmt: skip
    await bridge.ask("CA1", fields | {b"message:1": message("fine").encode()})
    await bridge.drain()
    call = await bridge.call("CA1")
    assert call["extra"] == {"": "4"}
    assert await bridge.rejects("CA1") == {name: value for name, value in fields.items() if name}
    assert call["total_messages"] == 1
    assert call["completeness"] == "partial"


async def test_what_is_named_almost_like_an_event_is_a_text_to_the_byte(bridge: Any) -> None:
    fields = dict.fromkeys((":", "a:", ":1", "Dtmf:1", "dtmf:1:2"), '{"\\u0000" :\t[[1]], "a": 1, "a": 2}')
    await bridge.ask("CA1", fields)
    await bridge.drain()
    assert (await bridge.call("CA1"))["extra"] == fields
    assert await bridge.rejects("CA1") == {}


async def test_a_replacement_character_that_was_said_is_no_damage(bridge: Any) -> None:
    said = "\ufffd is what I see"
    await bridge.ask(
        "CA1",
        {
            "message:1": json.dumps({"role": "agent", "content": said}, ensure_ascii=False),
            "collected_data": json.dumps({said: said}, ensure_ascii=False),
            "summary": said,
        },
    )
    await bridge.drain()
    assert await bridge.rejects("CA1") == {}
    assert (await bridge.call("CA1"))["collected_data"] == {said: said}


async def test_line_feeds_that_a_writer_did_not_escape_are_kept(bridge: Any) -> None:
    await bridge.ask("CA1", {"message:1": b'{"role":"user","content":"one\ntwo\tthree\x01"}'})
    await bridge.drain()
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == ["one\ntwo\tthree\x01"]


async def test_a_key_given_twice_has_its_last_value(bridge: Any) -> None:
    await bridge.ask("CA1", {"message:1": b'{"role":"user","content":"first","content":"last","own":1,"own":2}'})
    await bridge.drain()
    [row] = await bridge.of("CA1", "call_messages")
    assert (row["content"], row["extra"]) == ("last", {"own": 2})


async def test_the_same_id_in_two_families_is_two_events_and_written_twice_is_one(bridge: Any) -> None:
    await bridge.write("CA1", {"message:1": message("first")})
    await bridge.ask("CA1", {"message:1": message("last"), "dtmf:1": "{}", "mood:1": "{}", "tool:1": '{"name":"t"}'})
    await bridge.drain()
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == ["last"]
    assert len(await bridge.of("CA1", "call_tool_calls")) == 1
    unknown = await bridge.of("CA1", "call_events", "family")
    assert [(row["family"], row["event_id"], row["sequence"]) for row in unknown] == [
        ("dtmf", "1", 1),
        ("mood", "1", 1),
    ]
