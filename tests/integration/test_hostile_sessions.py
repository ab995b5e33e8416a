"""Sessions that hold nothing, too little or something else, and call SIDs of every kind."""

from __future__ import annotations

import json
from typing import Any

import pytest

SAID = {"role": "user", "content": "said", "timestamp": 1_763_632_800}


async def dead(bridge: Any) -> list[dict[str, Any]]:
    """Dead sessions, each with its raw fields."""
    rows: list[dict[str, Any]] = await bridge.rows("SELECT * FROM dead_sessions ORDER BY id")
    for row in rows:
        fields = await bridge.rows("SELECT field_raw, raw FROM dead_session_fields WHERE dead_id = %s", row["id"])
        row["kept"] = {bytes(field["field_raw"]): bytes(field["raw"]) for field in fields}
    return rows


async def state(bridge: Any, sid: str) -> str:
    [row] = await bridge.rows("SELECT state FROM call_sids WHERE call_sid = %s ORDER BY generation DESC LIMIT 1", sid)
    return str(row["state"])


async def test_a_request_without_a_session_is_lost_and_said_so(bridge: Any) -> None:
    await bridge.ask("CA1")
    await bridge.drain()
    call = await bridge.call("CA1")
    assert (await state(bridge, "CA1"), call["status"], call["completeness"]) == ("lost", "lost", "partial")
    assert bridge.bridge.drainer.counts.lost == 1
    assert await bridge.is_gone("CA1")


async def test_a_lost_call_that_comes_back_is_archived_as_the_same_call(bridge: Any) -> None:
    await bridge.ask("CA1")
    await bridge.drain()
    lost = await bridge.call("CA1")
    await bridge.ask("CA1", {"status": "completed", "message:1": SAID})
    await bridge.drain()
    call = await bridge.call("CA1")
    assert (call["id"], call["status"], call["total_messages"]) == (lost["id"], "completed", 1)
    assert await state(bridge, "CA1") == "archived"


async def test_a_request_repeated_after_the_archive_changes_nothing(bridge: Any) -> None:
    await bridge.ask("CA1", {"message:1": SAID})
    await bridge.drain()
    before = await bridge.rows("SELECT xmin::text, * FROM call_sessions")
    await bridge.ask("CA1")
    await bridge.drain()
    assert await bridge.rows("SELECT xmin::text, * FROM call_sessions") == before
    assert await state(bridge, "CA1") == "archived"


async def test_one_late_field_without_a_call_in_the_archive_is_a_call(bridge: Any) -> None:
    await bridge.ask("CA1", {"recording_url": "https://example.org/late"})
    await bridge.drain()
    call = await bridge.call("CA1")
    assert (call["recording_url"], call["status"], call["total_messages"]) == (
        "https://example.org/late",
        "completed",
        0,
    )
    assert call["completeness"] == "partial"
    assert await bridge.is_gone("CA1")


async def test_a_session_without_a_message_is_archived(bridge: Any) -> None:
    await bridge.ask("CA1", {"provider": "twilio", "status": "no-answer", "started_at": "2026-11-20T10:00:00Z"})
    await bridge.drain()
    call = await bridge.call("CA1")
    assert (call["status"], call["outcome"], call["total_turns"], call["row_counts"]) == (
        "no_answer",
        "no_answer",
        0,
        {},
    )
    assert await bridge.of("CA1", "call_transcripts", "1") == []


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "stream"])
async def test_a_key_of_another_type_is_dead_and_neither_touched_nor_in_the_way(bridge: Any, kind: str) -> None:
    write = {
        "string": ("SET", "x"), "list": ("RPUSH", "x"), "set": ("SADD", "x"), "zset": ("ZADD", "1", "x"),
        "stream": ("XADD", "*", "a", "x"),
    }[kind]  # fmt: skip
    await bridge.redis.execute_command(write[0], "session:CA1", *write[1:])
    await bridge.redis.expire("session:CA1", 1000)
    before = await bridge.redis.dump("session:CA1")
    await bridge.ask("CA1")
    await bridge.ask("CA2", {"message:1": SAID})
    await bridge.drain()

    [row] = await dead(bridge)
    assert (row["call_sid"], row["reason"], row["kept"]) == ("CA1", "wrong type", {})
    assert kind in row["error"]
    assert await bridge.redis.dump("session:CA1") == before
    assert await bridge.redis.ttl("session:CA1") > 0, "its TTL is not ours either"
    assert await bridge.redis.zscore("session-bridge:ready", "CA1") is None
    assert (await bridge.call("CA2"))["total_messages"] == 1


async def test_two_calls_with_the_same_event_ids_are_two_calls(bridge: Any) -> None:
    for sid in ("CA1", "CA2"):
        await bridge.ask(sid, {"message:1": {**SAID, "content": sid}, "tool:1": {"name": sid}})
    await bridge.drain()
    for sid in ("CA1", "CA2"):
        assert [row["content"] for row in await bridge.of(sid, "call_messages")] == [sid]
        assert [row["name"] for row in await bridge.of(sid, "call_tool_calls")] == [sid]


# -- call SIDs -------------------------------------------------------------------------------------------------------

NAMES = [
    "two words", " ", "zażółć 通话 \U0001f4de", "x" * 255, "ł" * 255, "a\tb\nc", "-inf", "(1", "%s",
    "'; DROP TABLE x; --",
    "session:CA1", "CA1:message:1", "*", "\x1f\x1e\\N", "\ufffd", "0", "{CA1}",
]  # fmt: skip


async def test_a_call_sid_is_any_text_of_up_to_255_characters(bridge: Any) -> None:
    for sid in NAMES:
        await bridge.ask(sid, {"message:1": {**SAID, "content": f"in {sid}"}})
    await bridge.drain()
    for sid in NAMES:
        assert [row["content"] for row in await bridge.of(sid, "call_messages")] == [f"in {sid}"]
        assert await bridge.is_gone(sid)
    for sid in NAMES:
        await bridge.ask(sid, {"recording_url": "late"})
    await bridge.drain()
    assert await bridge.rows("SELECT count(*), count(recording_url) AS late FROM call_sessions") == [
        {"count": len(NAMES), "late": len(NAMES)}
    ]
    assert await dead(bridge) == []


@pytest.mark.parametrize(
    "sid",
    [b"x" * 256, "ł".encode() * 256, b"\xff\xfe", b"CA\x00", b"", b"\xed\xa0\x80", b"x" * 100_000],
    ids=["256", "256 of two bytes", "no UTF-8", "NUL", "empty", "surrogate", "long"],
)
async def test_what_cannot_be_a_call_sid_is_dead_with_every_byte_and_gone_from_redis(bridge: Any, sid: bytes) -> None:
    fields = {b"message:1": json.dumps(SAID).encode(), b"\xff": b"\x00", b"audio_in": b"y" * (9 << 20)}
    await bridge.ask(sid, fields)
    await bridge.ask("CA2", {"message:1": SAID})
    await bridge.drain()
    [row] = await dead(bridge)
    assert (row["reason"], row["kept"], row["fields"]) == ("call SID", fields, 3)
    assert row["size_bytes"] == sum(map(len, fields.values()))
    assert await bridge.is_gone(sid)
    assert await bridge.redis.hgetall("session-bridge:in-hand") == {}
    assert (await bridge.call("CA2"))["total_messages"] == 1


async def test_what_cannot_be_a_call_sid_and_has_no_session_is_dead_too(bridge: Any) -> None:
    await bridge.ask(b"\xff")
    await bridge.drain()
    [row] = await dead(bridge)
    assert (row["reason"], row["kept"]) == ("call SID", {})
    assert await bridge.is_gone(b"\xff")


# -- what nobody knows, and other words for what is known -----------------------------------------------------------


async def test_unknown_families_and_fields_are_kept(bridge: Any) -> None:
    fields = {
        "dtmf:1": {"digit": "5", "timestamp": 1_763_632_801}, "dtmf:2": {"digit": "6", "timestamp": 1_763_632_800},
        "mood:1": {"deep": {"er": [1, None, True]}}, "empty:1": "{}", "no_json:1": "plain", "list:1": "[1]",
        "Not:a family": "kept", "own": "kept", "łódź": "ok", "x" * 5000: "y",
        "message:1": {**SAID, "own": {"a": [1]}, "role_raw": "x"},
    }  # fmt: skip
    await bridge.ask("CA1", fields)
    await bridge.drain()
    await bridge.ask("CA1", {"later": "kept", "dtmf:3": {"digit": "7", "timestamp": 1_763_632_799}})
    await bridge.drain()
    events = await bridge.of("CA1", "call_events", "family, sequence")
    assert [(row["family"], row["event_id"], row["sequence"]) for row in events] == [
        ("dtmf", "3", 1), ("dtmf", "2", 2), ("dtmf", "1", 3), ("empty", "1", 1), ("mood", "1", 1),
    ]  # fmt: skip
    assert events[-1]["payload"] == {"deep": {"er": [1, None, True]}}
    assert (await bridge.call("CA1"))["extra"] == {
        "no_json:1": "plain", "list:1": "[1]", "Not:a family": "kept", "own": "kept", "łódź": "ok", "x" * 5000: "y",
        "later": "kept",
    }  # fmt: skip
    assert (await bridge.of("CA1", "call_messages"))[0]["extra"] == {"own": {"a": [1]}, "role_raw": "x"}
    assert await bridge.rejects("CA1") == {}


@pytest.mark.parametrize(
    ("word", "role"),
    [("agent", "assistant"), ("AI", "assistant"), (" Bot ", "assistant"), ("Model", "assistant"), ("caller", "user"),
     ("Customer", "user"), ("HUMAN", "user"), ("developer", "system"), ("function", "tool"), ("USER", "user")],
)  # fmt: skip
async def test_a_role_in_another_word_is_understood_and_the_word_is_kept(bridge: Any, word: str, role: str) -> None:
    await bridge.ask("CA1", {"message:1": {**SAID, "role": word}})
    await bridge.ask("CA2", {"transcript_history": [{"role": word, "text": "said"}]})
    await bridge.drain()
    for sid in ("CA1", "CA2"):
        [row] = await bridge.of(sid, "call_messages")
        assert (row["role"], row["content"], row["extra"]) == (role, "said", {"role_raw": word})
        assert await bridge.rejects(sid) == {}


async def test_a_role_nobody_knows_is_a_reject(bridge: Any) -> None:
    fields = {b"message:1": json.dumps({**SAID, "role": "narrator"}).encode(), b"message:2": b'{"content":"x"}'}
    await bridge.ask("CA1", fields)
    await bridge.drain()
    assert await bridge.rejects("CA1") == fields


async def test_documents_of_another_kind_are_rejects_and_items_of_the_history_alone(bridge: Any) -> None:
    fields = {b"collected_data": b"[1]", b"metadata": b"text", b"objections_encountered": b'{"a":1}', b"analysis": b"7"}
    items = [{"role": "user", "content": "one"}, "two", {"role": "user"}, {"role": "bot", "text": "three"}]
    await bridge.ask("CA1", {**fields, b"transcript_history": json.dumps(items).encode()})
    await bridge.drain()
    rejected = await bridge.rejects("CA1")
    assert rejected.pop(b"transcript_history") in (b'"two"', b'{"role":"user"}')
    assert rejected == fields
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == ["one", "three"]
    rows = await bridge.rows("SELECT raw FROM call_session_rejects WHERE field = 'transcript_history'")
    assert {bytes(row["raw"]) for row in rows} == {b'"two"', b'{"role":"user"}'}


async def test_an_outcome_function_that_answers_with_no_text_stops_nothing(
    bridge_with: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    (tmp_path / "our_outcomes.py").write_text(
        "def number(facts):\n    return 7\ndef broken(facts):\n    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, outcome in (("number", "7"), ("broken", None)):
        bridge = await bridge_with(outcome=f"our_outcomes:{name}")
        await bridge.ask(name, {"message:1": SAID})
        await bridge.drain()
        assert (await bridge.call(name))["outcome"] == outcome


async def test_what_is_empty_in_some_language_says_nothing(bridge: Any) -> None:
    await bridge.ask("CA1", {"own:word": "kept", "message:1": {"role": "user", "content": ""}})
    await bridge.drain()
    fields = {
        "metadata": [],
        "collected_data": [],
        "objections_encountered": {},
        "transcript_history": {},
        "own:word": " ",
        "message:2": {"role": "user", "content": "two", "turn_number": "", "was_interrupted": "", "confidence": ""},
        "rag:1": {"query_text": "hours", "top_k": "", "chunks": {}},
        "metric:1": {"metric_type": "llm_ttfb", "value": 9, "turn_number": ""},
    }
    await bridge.ask("CA1", fields)
    await bridge.drain()
    assert await bridge.rejects("CA1") == {}
    call = await bridge.call("CA1")
    assert (call["total_messages"], call["total_rag_retrievals"], call["extra"]) == (2, 1, {"own:word": "kept"})
    needed = {"metric:1": {"metric_type": "llm_ttfb", "value": ""}, "metric:2": {"metric_type": ""}}
    # Within a chunk it would take the others with it.
    chunk = {"rag:1": {"query_text": "hours", "chunks": [{"content": "nine to five", "score": ""}]}}
    await bridge.ask("CA2", needed | chunk)
    await bridge.drain()
    assert set(await bridge.rejects("CA2")) == {b"metric:1", b"metric:2", b"rag:1"}


async def test_a_request_for_no_moment_is_drained_like_any_other(bridge: Any) -> None:
    await bridge.write("CA1", {"message:1": {"role": "user", "content": "hi"}})
    await bridge.redis.zadd(bridge.bridge.keys.ready, {"CA1": "-inf"})
    assert await bridge.bridge.loop.drain_once() == 1
    assert await bridge.is_gone("CA1")
