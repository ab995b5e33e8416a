"""What is archived and what is read, as one call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.fields import Family
from session_bridge.contract.models import MODELS
from session_bridge.drain.call import Call
from session_bridge.drain.combine import combine, join_history

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def call(*, at: int | None = None, messages: tuple[str, ...] = (), **state: Any) -> Call:
    made = Call("CA1", state=dict(state))
    if at is not None:
        made.state["last_activity_at"] = NOON + timedelta(seconds=at)
    if messages:
        message = MODELS[Family.MESSAGE].event
        made.events[Family.MESSAGE] = [message(event_id=name, role="user", content=name) for name in messages]
    return made


def archived(status: str | None, by: str = "writer", sequence: int | None = None, at: int = 0) -> Call:
    kept: dict[str, Any] = {"status": status, "status_raw": status, "status_by": by, "status_sequence": sequence}
    return call(at=at, **{name: value for name, value in kept.items() if value is not None and status is not None})


WRITER, TWILIO, US = "writer", "twilio", "inferred"
STATUSES = [
    # archived: status, by, sequence; read: status, by, sequence, seconds after the archived activity; what holds
    (("in_progress", WRITER, None), ("completed", WRITER, None, 1), "completed"),
    (("ringing", WRITER, None), ("in_progress", WRITER, None, 1), "in_progress"),
    (("in_progress", WRITER, None), ("ringing", WRITER, None, -1), "in_progress"),
    # A terminal status never goes back.
    (("completed", WRITER, None), ("in_progress", WRITER, None, 1), "completed"),
    (("completed", WRITER, None), ("in_progress", TWILIO, 9, 1), "completed"),
    (("completed", US, None), ("in_progress", WRITER, None, 1), "completed"),
    (("in_progress", TWILIO, 9), ("failed", WRITER, None, -1), "failed"),
    # Between two terminal ones the provider's word wins, then its sequence, then the newer one.
    (("completed", WRITER, None), ("no-answer", TWILIO, 1, -1), "no_answer"),
    (("no_answer", TWILIO, 1), ("completed", WRITER, None, 1), "no_answer"),
    (("busy", TWILIO, 3), ("failed", TWILIO, 2, 1), "busy"),
    (("busy", TWILIO, 3), ("failed", TWILIO, 4, -1), "failed"),
    (("busy", TWILIO, None), ("failed", TWILIO, 4, 1), "failed"),
    (("completed", WRITER, None), ("failed", WRITER, None, 1), "failed"),
    (("completed", WRITER, None), ("failed", WRITER, None, -1), "completed"),
    # What we inferred gives way to any other terminal word.
    (("completed", US, None), ("failed", WRITER, None, 1), "failed"),
    (("completed", US, None), ("failed", WRITER, None, -1), "failed"),
    (("completed", US, None), ("busy", TWILIO, 1, -1), "busy"),
    # An end from silence or absence is taken back by whatever says so later.
    (("abandoned", US, None), ("in_progress", WRITER, None, 1), "in_progress"),
    (("abandoned", US, None), ("in_progress", WRITER, None, -1), "abandoned"),
    (("abandoned", US, None), ("completed", TWILIO, 1, -1), "completed"),
    (("lost", US, None), ("completed", WRITER, None, 1), "completed"),
    ((None, US, None), ("ringing", WRITER, None, 1), "ringing"),
]


@pytest.mark.parametrize(("old", "new", "holds"), STATUSES)
def test_one_of_two_statuses_holds(old: tuple[Any, ...], new: tuple[Any, ...], holds: str) -> None:
    status, by, sequence, at = new
    read = call(at=at, status=status, status_by=by)
    if sequence is not None:
        read.state["status_sequence"] = sequence
    assert combine(archived(*old), read, requested=False).state["status"] == holds


@pytest.mark.parametrize(
    ("at", "messages", "holds"), [(1, (), "in_progress"), (0, ("new",), "in_progress"), (0, (), "abandoned")]
)
def test_a_message_or_newer_activity_opens_an_abandoned_call_again(
    at: int, messages: tuple[str, ...], holds: str
) -> None:
    read = call(at=at, messages=messages, recording_url="https://example.org/late")
    assert combine(archived("abandoned", US), read, requested=False).state["status"] == holds


def test_a_known_message_or_a_recording_opens_nothing() -> None:
    kept = archived("abandoned", US)
    kept.events = call(messages=("known",)).events
    read = call(messages=("known",), recording_url="https://example.org/late")
    assert combine(kept, read, requested=False).state["status"] == "abandoned"


@pytest.mark.parametrize(
    ("state", "status", "by"),
    [
        ({}, "completed", "inferred"),
        ({"status": "in-progress"}, "completed", "inferred"),
        ({"ended_at": NOON}, "completed", "writer"),
        ({"status": "Failed"}, "failed", "writer"),
        ({"status": "gibberish"}, "completed", "inferred"),
        ({"finalized_by": "sweep", "finalize_reason": "abandoned"}, "abandoned", "inferred"),
        ({"finalized_by": "sweep", "finalize_reason": "abandoned", "status": "busy"}, "busy", "writer"),
    ],
)
def test_a_call_whose_end_was_asked_for_has_ended(state: dict[str, Any], status: str, by: str) -> None:
    ended = combine(None, call(**state), requested=True)
    assert (ended.state["status"], ended.state["status_by"]) == (status, by)
    living = combine(None, call(**state), requested=False)
    assert living.state.get("status") in (None, "in_progress", "failed", "busy")


def test_the_end_is_the_last_activity_known_unless_it_was_given() -> None:
    inferred = combine(None, call(at=7), requested=True)
    assert (inferred.state["ended_at"], inferred.inferred) == (NOON + timedelta(seconds=7), {"ended_at"})
    given_ = combine(None, call(at=7, ended_at=NOON), requested=True)
    assert (given_.state["ended_at"], given_.inferred) == (NOON, set())


def test_a_value_gives_way_neither_to_nothing_nor_to_an_older_one() -> None:
    kept = call(at=0, summary="kept", agent_name="old")
    assert combine(kept, call(at=1, agent_name="new"), requested=False).state["summary"] == "kept"
    assert combine(kept, call(at=1, agent_name="new"), requested=False).state["agent_name"] == "new"
    stale = combine(kept, call(at=-1, agent_name="stale", language="pl"), requested=False).state
    assert (stale["agent_name"], stale["language"], stale["last_activity_at"]) == ("old", "pl", NOON)


def test_an_event_is_known_by_its_id_and_the_newer_one_holds() -> None:
    kept, read = call(at=0, messages=("a", "b")), call(at=1, messages=("b", "c"))
    read.of(Family.MESSAGE)[0].content = "new"
    joined = {event.event_id: event.content for event in combine(kept, read, requested=False).of(Family.MESSAGE)}
    assert joined == {"a": "a", "b": "new", "c": "c"}
    stale = call(at=-1, messages=("b", "c"))
    stale.of(Family.MESSAGE)[0].content = "stale"
    joined = {event.event_id: event.content for event in combine(kept, stale, requested=False).of(Family.MESSAGE)}
    assert joined == {"a": "a", "b": "b", "c": "c"}


# -- the older form of the transcript --------------------------------------------------------------------------------


def items(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": letter} for letter in text]


def joined(archived_: str, read: str) -> str:
    return "".join(str(item["content"]) for item in join_history(items(archived_), items(read)))


@pytest.mark.parametrize(
    ("kept", "read", "both"),
    [
        ("", "abc", "abc"), ("abc", "", "abc"), ("abc", "abc", "abc"), ("abc", "abcd", "abcd"),
        ("abcd", "cdef", "abcdef"), ("abcd", "bc", "abcd"), ("bc", "abcd", "abcd"), ("abc", "xyz", "abcxyz"),
        ("aab", "aba", "aaba"), ("aaa", "aaaa", "aaaa"), ("abab", "abac", "ababac"), ("", "", ""),
    ],
)  # fmt: skip
def test_two_readings_are_joined_at_their_longest_overlap(kept: str, read: str, both: str) -> None:
    assert joined(kept, read) == both


# Whatever was said is told apart, as times and turns do; only then can any trimming be undone.
told_apart = st.lists(st.characters(codec="ascii", categories=("L", "N")), unique=True, max_size=12).map("".join)


@given(told_apart, st.data())
def test_a_list_trimmed_at_its_front_between_readings_is_whole_again(said: str, data: Any) -> None:
    end = data.draw(st.integers(0, len(said)))
    start = data.draw(st.integers(0, end))
    assert joined(said[:end], said[start:]) == said


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_nothing_said_is_missing_after_a_join_and_reading_again_adds_nothing(kept: str, read: str) -> None:
    both = joined(kept, read)
    assert kept in both
    assert read in both
    assert both.startswith(kept) or kept in read
    assert joined(both, read) == both
