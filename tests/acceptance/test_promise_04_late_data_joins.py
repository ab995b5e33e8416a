"""Promise 4: what arrives after the archive is merged, and nothing gives way to what is emptier or older."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

AT = 1_763_632_800


def event(**facts: object) -> str:
    return json.dumps(facts)


@pytest.fixture
def archived(deployment: Any) -> Any:
    """A deployment with a running worker and one call, CA1, that has been archived."""
    worker = deployment.worker()
    deployment.drain(
        "CA1",
        {
            "provider": "twilio",
            "status": "completed",
            "started_at": AT,
            "ended_at": AT + 60,
            "last_activity_at": AT + 60,
            "from_number": "+15550100",
            "summary": "asked for the hours",
            "message:1": event(role="user", content="hello", timestamp=AT + 1),
            "message:3": event(role="user", content="bye", timestamp=AT + 50),
            "cost:1": event(service="llm", amount_cents="1.5", timestamp=AT + 50),
        },
    )
    yield deployment
    worker.stop()


def test_a_late_recording_link_joins(archived: Any) -> None:
    row = archived.drain("CA1", {"recording_url": "https://example.test/RE1", "recording_sid": "RE1"})
    assert row["recording_url"] == "https://example.test/RE1"
    assert (row["status"], row["summary"]) == ("completed", "asked for the hours")
    assert archived.said("CA1") == ["hello", "bye"]
    assert archived.rows("SELECT drains, generation, state FROM call_sids") == [(2, 1, "archived")]


def test_a_late_price_joins(archived: Any) -> None:
    row = archived.drain("CA1", {"cost:2": event(service="telephony", amount_cents="2.25", timestamp=AT + 600)})
    assert row["total_cost_cents"] == Decimal("3.75")
    costs = archived.value("SELECT by_service FROM call_cost_breakdowns")
    assert {service: Decimal(cost) for service, cost in costs.items()} == {
        "llm": Decimal("1.5"),
        "telephony": Decimal("2.25"),
    }
    assert row["ended_at"].timestamp() == AT + 60


def test_a_late_analysis_joins(archived: Any) -> None:
    row = archived.drain("CA1", {"analysis": event(sentiment="positive", topics=["hours"])})
    assert archived.value("SELECT sentiment FROM call_analysis") == "positive"
    assert row["summary"] == "asked for the hours"
    archived.drain("CA1", {"analysis": event(sentiment="negative")})
    assert archived.value("SELECT sentiment FROM call_analysis") == "negative"


def test_a_stray_message_takes_its_place(archived: Any) -> None:
    row = archived.drain("CA1", {"message:2": event(role="assistant", content="nine to five", timestamp=AT + 20)})
    assert archived.said("CA1") == ["hello", "nine to five", "bye"]
    assert row["total_messages"] == 3
    text = archived.value("SELECT transcript_text FROM call_transcripts")
    assert text.index("hello") < text.index("nine to five") < text.index("bye")


def test_nothing_gives_way_to_what_is_empty(archived: Any) -> None:
    before = archived.call("CA1")
    empty = {"from_number": "", "summary": "", "ended_at": "", "status": "", "collected_data": "", "analysis": "null"}
    empty |= {"tenant_id": "", "last_activity_at": "", "transcript_history": "[]", "metadata": "{}"}
    row = archived.drain("CA1", empty | {"message:1": event(role="user", content="hello", timestamp=AT + 1)})
    changed = {name for name in row if row[name] != before[name]}
    assert changed <= {"drains", "archived_at"}, changed
    assert archived.said("CA1") == ["hello", "bye"]


def test_an_older_writer_does_not_overwrite_a_newer(archived: Any) -> None:
    old = {"last_activity_at": AT + 30, "summary": "asks for", "agent_name": "Ann", "conversation_stage": "greeting"}
    row = archived.drain("CA1", old | {"message:3": event(role="user", content="b", timestamp=AT + 50)})
    assert row["summary"] == "asked for the hours"
    assert row["last_activity_at"].timestamp() == AT + 60
    # What the newer one does not know, it takes all the same.
    assert (row["agent_name"], row["conversation_stage"]) == ("Ann", "greeting")
    assert archived.said("CA1") == ["hello", "bye"]

    row = archived.drain("CA1", {"last_activity_at": AT + 70, "summary": "asked for the hours, twice"})
    assert row["summary"] == "asked for the hours, twice"


@pytest.mark.parametrize("word", ["in-progress", "ringing", "queued"])
def test_a_terminal_status_never_goes_back(archived: Any, word: str) -> None:
    row = archived.drain("CA1", {"status": word, "last_activity_at": AT + 90})
    assert row["status"] == "completed"
    row = archived.drain("CA1", {"status": word, "status_by": "twilio", "status_sequence": 9})
    assert row["status"] == "completed"


def test_between_two_ends_the_providers_word_wins_and_then_its_sequence(archived: Any) -> None:
    row = archived.drain("CA1", {"status": "no-answer", "status_by": "twilio", "status_sequence": 4})
    assert (row["status"], row["status_by"], row["status_sequence"]) == ("no_answer", "twilio", 4)
    row = archived.drain("CA1", {"status": "failed", "last_activity_at": AT + 90})
    assert (row["status"], row["status_by"]) == ("no_answer", "twilio")
    row = archived.drain("CA1", {"status": "busy", "status_by": "twilio", "status_sequence": 3})
    assert (row["status"], row["status_sequence"]) == ("no_answer", 4)
    row = archived.drain("CA1", {"status": "canceled", "status_by": "twilio", "status_sequence": 5})
    assert (row["status"], row["status_sequence"]) == ("canceled", 5)


def test_the_same_sid_later_is_another_call(archived: Any) -> None:
    before = archived.call("CA1")
    later = {"started_at": AT + 3600, "status": "completed", "message:1": event(role="user", content="again")}
    archived.drain("CA1", later | {"last_activity_at": AT + 3700})
    assert archived.call("CA1") == before
    assert archived.said("CA1") == ["hello", "bye"]
    assert archived.said("CA1", generation=2) == ["again"]
    assert archived.value("SELECT count(DISTINCT session_id) FROM call_sids WHERE call_sid = 'CA1'") == 2
    # What comes late for the first call, with its start, still finds it.
    archived.drain("CA1", {"started_at": AT, "recording_url": "https://example.test/1"})
    assert archived.call("CA1")["recording_url"] == "https://example.test/1"
    assert archived.call("CA1", generation=2)["recording_url"] is None


def test_a_late_writer_without_a_start_reaches_the_latest_call(archived: Any) -> None:
    archived.drain("CA1", {"started_at": AT + 3600, "status": "completed"})
    archived.drain("CA1", {"recording_url": "https://example.test/2"})
    assert archived.call("CA1", generation=2)["recording_url"] == "https://example.test/2"
    assert archived.call("CA1")["recording_url"] is None
