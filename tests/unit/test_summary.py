"""The numbers of a call that a dashboard asks for, and its outcome."""

from __future__ import annotations

from decimal import Decimal
from statistics import quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.fields import Family
from session_bridge.contract.models import MODELS
from session_bridge.contract.rates import NO_RATES
from session_bridge.contract.vocabulary import Status
from session_bridge.drain.call import Call
from session_bridge.drain.outcome import CallFacts, default_outcome, load_outcome
from session_bridge.drain.rates import costs_of, total_of
from session_bridge.drain.summary import count_turns, percentile
from session_bridge.errors import SettingsError

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50).map(sorted)


@given(numbers, st.floats(0, 1))
def test_a_percentile_lies_between_its_neighbours_and_grows(ordered: list[float], fraction: float) -> None:
    value = percentile(ordered, fraction)
    assert value is not None
    assert ordered[0] - 1e-6 <= value <= ordered[-1] + 1e-6
    assert (percentile(ordered, 0), percentile(ordered, 1)) == (ordered[0], ordered[-1])
    assert value <= (percentile(ordered, min(1, fraction + 0.1)) or 0) + 1e-6


@given(numbers.filter(lambda ordered: len(ordered) > 1))
def test_a_percentile_is_that_of_everybody_else(ordered: list[float]) -> None:
    assert percentile(ordered, 0.95) == pytest.approx(
        quantiles(ordered, n=100, method="inclusive")[94], rel=1e-12, abs=1e-6
    )


def test_the_percentile_of_nothing_is_none_and_of_one_is_itself() -> None:
    assert percentile([], 0.95) is None
    assert percentile([7.0], 0.95) == 7.0


@pytest.mark.parametrize(
    ("roles", "turns"),
    [("", 0), ("u", 1), ("uua", 2), ("uauau", 5), ("asu", 2), ("aasa", 1), ("st", 0), ("utu", 1)],
)
def test_a_turn_is_a_run_of_messages_by_one_of_the_two(roles: str, turns: int) -> None:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    message = MODELS[Family.MESSAGE].event
    assert count_turns([message(role=names[role], content="") for role in roles]) == turns


def costs(*events: dict[str, Any]) -> Call:
    call = Call("CA1")
    call.events[Family.COST] = [
        MODELS[Family.COST].event(event_id=str(number), **{"service": "llm", **event})
        for number, event in enumerate(events)
    ]
    return call


def test_costs_are_added_up_by_currency_and_service_and_usage_counts_with_its_price() -> None:
    call = costs(
        {"amount_cents": Decimal("1.5")},
        {"usage": Decimal(1000), "unit_price_cents": Decimal("0.002")},
        {"usage": Decimal(1000)},
        {"service": "tts", "amount_cents": Decimal("0.25"), "currency": " usd"},
        {"service": "sms", "amount_cents": Decimal(9), "currency": "EUR"},
        {"amount_cents": Decimal(4), "usage": Decimal(1), "unit_price_cents": Decimal(99)},
    )
    found = costs_of(call, NO_RATES)
    assert {currency: cost.by_service for currency, cost in found.items()} == {
        "USD": {"llm": Decimal("7.5"), "tts": Decimal("0.25")}, "EUR": {"sms": Decimal(9)},
    }  # fmt: skip
    assert {currency: cost.reported for currency, cost in found.items()} == {
        "USD": Decimal("7.75"), "EUR": Decimal(9),
    }  # fmt: skip
    assert total_of(found) == Decimal("7.75")


def test_a_total_is_in_the_one_currency_or_in_the_default_one_or_there_is_none() -> None:
    euros, yen = {"amount_cents": Decimal(9), "currency": "EUR"}, {"amount_cents": Decimal(1), "currency": "JPY"}
    assert total_of(costs_of(costs(euros), NO_RATES)) == Decimal(9)
    assert total_of(costs_of(costs(euros, yen), NO_RATES)) is None
    assert total_of(costs_of(costs(), NO_RATES)) is None


# -- outcome ----------------------------------------------------------------------------------------------------------


def facts(**given_: Any) -> CallFacts:
    nothing: dict[str, Any] = dict.fromkeys(
        ("end_reason", "conversation_stage", "final_node", "handoff_status", "payment_status")
    )
    return CallFacts(
        **{
            "status": "completed", "collected_data": {}, "objections_encountered": [], "analysis": {},
            "total_user_messages": 0, "total_messages": 0, **nothing, **given_,
        }
    )  # fmt: skip


EVERYTHING: dict[str, Any] = {
    "handoff_status": "accepted", "analysis": {"success": False}, "payment_status": "Paid",
    "conversation_stage": "Closing", "objections_encountered": ["price"], "collected_data": {"name": "Ada"},
    "total_user_messages": 3,
}  # fmt: skip


@pytest.mark.parametrize("status", ["initiated", "ringing", "in_progress", "lost"])
def test_a_call_that_lives_or_was_lost_has_no_outcome(status: str) -> None:
    assert default_outcome(facts(**EVERYTHING, status=status)) is None


@pytest.mark.parametrize("status", [Status.BUSY, Status.NO_ANSWER, Status.CANCELED, Status.FAILED])
def test_a_call_that_was_not_reached_or_failed_has_that_for_its_outcome(status: Status) -> None:
    assert default_outcome(facts(**EVERYTHING, status=status.value)) == status.value


def test_an_outcome_is_decided_by_the_first_fact_that_tells() -> None:
    told = dict(EVERYTHING)
    assert default_outcome(facts(**told, end_reason="error")) == "failed"
    assert default_outcome(facts(**told, end_reason="voicemail")) == "voicemail"
    outcomes = ["transferred", "not_successful", "success", "success", "objection", "data_collected", "conversation"]
    for name, outcome in zip(EVERYTHING, outcomes, strict=True):
        assert default_outcome(facts(**told)) == outcome
        del told[name]
    assert default_outcome(facts(**told)) == "no_conversation"
    assert default_outcome(facts(end_reason="transfer")) == "transferred"
    assert default_outcome(facts(analysis={"success": True})) == "success"
    assert default_outcome(facts(analysis={"success": "yes"}, total_user_messages=1)) == "conversation"


def test_an_outcome_function_is_named_by_its_module() -> None:
    assert load_outcome("") is default_outcome
    assert load_outcome("session_bridge.drain.outcome:default_outcome") is default_outcome


@pytest.mark.parametrize("name", ["nowhere:function", "json:nothing", "json", "json:__name__", ":", "json:"])
def test_a_function_that_is_not_there_is_a_settings_error(name: str) -> None:
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_OUTCOME"):
        load_outcome(name)
