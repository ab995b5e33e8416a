"""A call that was checkpointed, or drained before all of it was said, is archived as if it had been drained once."""

from __future__ import annotations

from typing import Any

import pytest

START = "2026-11-20T10:00:00Z"


def said(text: str, second: int, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, "timestamp": f"2026-11-20T10:00:{second:02}Z", **more}


def spoken(*texts: str) -> list[dict[str, str]]:
    """An older form of the transcript, in which the two sides take turns."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


USAGE = {"service": "llm", "amount_cents": 5}
CHUNKS = [{"chunk_id": name, "content": name} for name in ("a", "b", "c")]
# What is written first, and what is written over it until the end.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an end that made no sense": ({"ended_at": "0001-01-01T00:00:00Z"}, {"ended_at": "2026-11-20T10:09:00Z"}),
    "a message at no moment": (
        {"message:1": {**said("hello", 1), "timestamp": "never"}, "ended_at": "2026-11-20T10:09:00Z"},
        {"message:1": said("hello", 1)},
    ),
    "a field that is called like a senseless time": (
        {"published_at_raw": "yesterday", "ended_at": "2026-11-20T10:09:00Z"},
        {"agent_name": "Ann"},
    ),
    "a field that was no JSON": ({"metadata": "{"}, {"metadata": {"a": 1}}),
    "a sentence that went on": (
        {"transcript_history": spoken("Hello", "A table?", "Sure, for wh")},
        {"transcript_history": spoken("Hello", "A table?", "Sure, for when?", "Tonight.")},
    ),
    "a sentence that was cut off": (
        {"transcript_history": spoken("Hello", "A table on Monday or on Tuesday?")},
        {"transcript_history": spoken("Hello", "A table on Mon", "Wait.")},
    ),
    "the only sentence": (
        {"transcript_history": spoken("Hel")},
        {"transcript_history": spoken("Hello", "Yes?")},
    ),
    "fewer chunks": (
        {"rag:1": {"query_text": "hours", "chunks": CHUNKS}},
        {"rag:1": {"query_text": "hours", "chunks": CHUNKS[1:2]}},
    ),
    "another currency": ({"cost:1": USAGE}, {"cost:1": {**USAGE, "currency": "eur"}}),
    "no status yet": ({"agent_name": "Ann"}, {"status": "ringing"}),
    "a word that is known by now": ({"status": "transferring"}, {"status": "active"}),
}
GO_ON = ("no status yet", "a word that is known by now")


@pytest.mark.parametrize(
    ("case", "first"),
    # A call that has ended does not begin again.
    [(case, first) for case in CASES for first in ("checkpoints", "ready") if first != "ready" or case not in GO_ON],
)
async def test_a_call_drained_twice_is_as_one_drained_once(bridge: Any, case: str, first: str) -> None:
    before, after = CASES[case]
    before = {"provider": "twilio", "started_at": START, "message:0": said("hi", 0), **before}
    if "transcript_history" in before:
        del before["message:0"]
    last = "checkpoints" if case in GO_ON else "ready"
    await bridge.write("CAtwice", before)
    for queue, sid, fields in (
        (first, "CAtwice", {}),
        (last, "CAtwice", after),
        (last, "CAonce", before | after),
    ):
        await bridge.write(sid, fields)
        await bridge.redis.zadd(getattr(bridge.bridge.keys, queue), {sid: 0})
        await bridge.bridge.loop.drain_once()
    twice, once = await bridge.archived("CAtwice"), await bridge.archived("CAonce")
    assert twice == once


async def test_what_was_said_later_is_no_other_wording_of_what_was_said_before(bridge: Any) -> None:
    for history in ([said("Yes", 1)], [said("Yes, please", 9)]):
        await bridge.ask("CA1", {"started_at": START, "transcript_history": history})
        await bridge.drain()
    assert [row["content"] for row in await bridge.of("CA1", "call_messages")] == ["Yes", "Yes, please"]


async def test_a_later_word_that_nobody_knows_is_kept_beside_what_is_known(bridge: Any) -> None:
    for word in ("active", "transferring"):
        await bridge.write("CA1", {"started_at": START, "status": word})
        await bridge.redis.zadd(bridge.bridge.keys.checkpoints, {"CA1": 0})
        await bridge.bridge.loop.drain_once()
    call = await bridge.call("CA1")
    assert (call["status"], call["status_raw"]) == ("in_progress", "transferring")


LATE: dict[str, dict[str, Any]] = {
    "a price": {"cost:1": {**USAGE, "timestamp": "2026-11-20T13:00:00Z"}},
    "a recording": {"recording:1": {"recording_sid": "RE1", "timestamp": "2026-11-20T13:00:00Z"}},
    "an evaluation": {"evaluation:1": {"score": 5, "timestamp": "2026-11-21T10:00:00Z"}},
}


@pytest.mark.parametrize("late", LATE)
async def test_what_comes_late_makes_no_call_longer(bridge: Any, late: str) -> None:
    await bridge.ask("CA1", {"started_at": START, "message:1": said("hi", 59)})
    await bridge.drain()
    await bridge.ask("CA1", LATE[late])
    await bridge.drain()
    call = await bridge.call("CA1")
    assert (call["duration_seconds"], call["drains"]) == (59, 2)


async def test_a_call_of_which_only_its_older_transcript_tells_ends_with_it(bridge: Any) -> None:
    history = [said("hi", 1), said("bye", 42, "assistant"), {"role": "user", "content": "…", "timestamp": "never"}]
    await bridge.ask("CA1", {"started_at": START, "transcript_history": history})
    await bridge.ask(
        "CA2", {"started_at": START, "participant:1": {"identity": "p", "left_at": "2026-11-20T10:09:00Z"}}
    )
    await bridge.ask("CA3", {"started_at": START, "dtmf:1": {"digit": 1, "timestamp": "2026-11-20T10:01:00Z"}})
    await bridge.drain()
    ends = [(await bridge.call(sid))["ended_at"].isoformat() for sid in ("CA1", "CA2", "CA3")]
    assert ends == [f"2026-11-20T10:{time}+00:00" for time in ("00:42", "09:00", "01:00")]


async def test_an_abandoned_call_lives_again_by_its_older_transcript(bridge: Any) -> None:
    given_up = {"finalized_by": "sweep", "finalize_reason": "abandoned"}
    await bridge.ask("CA1", {"started_at": START, "transcript_history": spoken("Hello"), **given_up})
    await bridge.drain()
    assert (await bridge.call("CA1"))["status"] == "abandoned"
    await bridge.ask("CA1", {"transcript_history": spoken("Hello", "Yes?")})
    await bridge.drain()
    assert (await bridge.call("CA1"))["status"] == "completed"
