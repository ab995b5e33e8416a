"""One vocabulary for every writer's and provider's words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.vocabulary import (
    LATENCY_TYPES,
    PROVISIONAL,
    TERMINAL,
    EndReason,
    MetricType,
    Status,
    end_reason_of,
    status_of,
)


@pytest.mark.parametrize("status", Status)
def test_every_status_is_a_word_for_itself(status: Status) -> None:
    assert status_of(status.value) is status


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_reason_is_a_word_for_itself(reason: EndReason) -> None:
    assert end_reason_of(reason.value) is reason


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("active", Status.IN_PROGRESS), ("in-progress", Status.IN_PROGRESS), ("In Progress", Status.IN_PROGRESS),
        ("answered", Status.IN_PROGRESS), ("queued", Status.INITIATED), ("ended", Status.COMPLETED),
        ("error", Status.FAILED), ("no-answer", Status.NO_ANSWER), ("NOANSWER", Status.NO_ANSWER),
        ("cancelled", Status.CANCELED), (" Busy ", Status.BUSY), ("hung-up", Status.COMPLETED),
        ("what?", None), ("", None),
    ],
)  # fmt: skip
def test_the_words_of_writers_and_providers_are_understood(word: str, status: Status | None) -> None:
    assert status_of(word) is status


@pytest.mark.parametrize(
    ("word", "reason"),
    [("user-hangup", EndReason.CALLER_HANGUP), ("Customer Ended Call", EndReason.CALLER_HANGUP),
     ("assistant-ended-call", EndReason.AGENT_HANGUP), ("voicemail_reached", EndReason.VOICEMAIL),
     ("silence-timed-out", EndReason.TIMEOUT), ("meteor", EndReason.UNKNOWN), ("", EndReason.UNKNOWN)],
)  # fmt: skip
def test_the_reasons_of_providers_are_understood_and_others_are_unknown(word: str, reason: EndReason) -> None:
    assert end_reason_of(word) is reason


@given(st.sampled_from([*Status]), st.data())
def test_case_dashes_and_blanks_make_no_difference(status: Status, data: st.DataObject) -> None:
    word = "".join(
        data.draw(st.sampled_from(["_", "-", " "]))
        if letter == "_"
        else data.draw(st.sampled_from([letter, letter.upper()]))
        for letter in status.value
    )
    assert status_of(f"  {word} ") is status


@given(st.text())
def test_any_word_has_a_status_or_none_and_always_an_end_reason(word: str) -> None:
    assert status_of(word) is None or isinstance(status_of(word), Status)
    assert isinstance(end_reason_of(word), EndReason)


def test_a_status_is_terminal_or_provisional_or_neither() -> None:
    assert not TERMINAL & PROVISIONAL
    assert {Status.INITIATED, Status.RINGING, Status.IN_PROGRESS} == set(Status) - TERMINAL - PROVISIONAL


def test_latencies_are_the_metrics_that_measure_time_and_no_counts() -> None:
    counts = {kind for kind in MetricType if kind.endswith(("_tokens", "_characters", "_seconds"))}
    assert set(MetricType) - LATENCY_TYPES == counts
