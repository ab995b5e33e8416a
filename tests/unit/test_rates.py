"""What usage costs: exact, by the rate that names most of it, at the moment of the call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.contract.fields import Family
from session_bridge.contract.models import MODELS
from session_bridge.contract.rates import UNITS, Rate, RateBook, Tariff, amount_of, unit_of
from session_bridge.contract.usage import Connection, Meter, quantity_of, seconds_of
from session_bridge.drain.call import Call
from session_bridge.drain.rates import costs_of, total_of

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SIZES = {
    "minute": 60, "hour": 3600, "1k_tokens": 1000, "1m_tokens": 10**6, "1k_characters": 1000, "token": 1, "second": 1,
}  # fmt: skip
cents = st.decimals(0, 99_999_999, places=10, allow_nan=False)
steps = st.none() | st.decimals("0.0000000001", 1000, places=10)


def rate(service: str, provider: str, unit: str, price: str, model: str = "", **more: Any) -> Rate:
    return Rate(service, provider, model, unit, Decimal(price), **{"valid_from": SINCE, **more})


SEEDS = (
    rate("telephony", "twilio", "minute", "1.30", "outbound"),
    rate("stt", "deepgram", "minute", "0.43"),
    rate("llm", "cerebras", "1m_tokens", "10"),
    rate("tts", "elevenlabs", "1k_characters", "15"),
)


def half_up(number: Fraction) -> Fraction:
    return Fraction(floor(number * 10**10 + Fraction(1, 2)), 10**10)


@given(cents, cents, st.sampled_from(sorted(SIZES)), steps)
def test_an_amount_is_the_exact_product_rounded_once(
    quantity: Decimal, price: Decimal, unit: str, step: Decimal | None
) -> None:
    exact = Fraction(quantity) / SIZES[unit]
    if step is not None:
        exact = ceil(exact / Fraction(step)) * Fraction(step)
    found = amount_of(rate("s", "p", unit, str(price), step=step), quantity)
    assert Fraction(found) == half_up(exact * Fraction(price))
    assert found.as_tuple().exponent == -10


@given(st.lists(st.tuples(st.integers(0, 10**9), cents), max_size=30))
def test_a_call_costs_the_sum_of_its_lines_and_no_digit_more_or_less(uses: list[tuple[int, Decimal]]) -> None:
    rates = [rate("llm", f"p{number}x", "1m_tokens", str(price)) for number, (_, price) in enumerate(uses)]
    metrics = [
        {"metric_type": "llm_prompt_tokens", "value": float(tokens), "processor": f"p{number}x"}
        for number, (tokens, _) in enumerate(uses)
    ]
    costs = costs_of(call(*metrics), RateBook(rates))
    exact = sum((half_up(Fraction(tokens) * Fraction(price) / 10**6) for tokens, price in uses), Fraction(0))
    assert Fraction(total_of(costs) or 0) == exact


@given(st.timedeltas(timedelta(0), timedelta(days=40)))
def test_a_time_is_exact_to_the_microsecond(time: timedelta) -> None:
    assert Fraction(seconds_of(time)) == Fraction(time // timedelta(microseconds=1), 10**6)


@given(st.decimals(0, 10**6, places=6))
def test_a_binary_fraction_is_the_decimal_that_its_writer_wrote(number: Decimal) -> None:
    assert quantity_of(float(number)) == number


@pytest.mark.parametrize("value", [-1.0, 1e300, float("inf"), float("nan"), True, "12", None])
def test_what_nobody_can_have_used_is_no_quantity(value: object) -> None:
    assert quantity_of(value) is None


def test_units_are_known_by_their_usual_words() -> None:
    words = {
        "minutes": "minute", "Min": "minute", "per minute": "minute", "sec": "second", "tokens": "token",
        "input tokens": "prompt_token", "million tokens": "1m_tokens", "1k characters": "1k_characters",
        "chars": "character", "sms": "sms", "images": "image",
    }  # fmt: skip
    assert {word: unit_of(word) for word in words} == words
    assert all(unit_of(unit) == unit for unit in UNITS)


def test_a_rate_holds_from_its_first_moment_to_before_its_last() -> None:
    day = timedelta(days=1)
    book = RateBook(
        [
            rate("llm", "cerebras", "1m_tokens", "10", valid_to=SINCE + day),
            rate("llm", "cerebras", "1m_tokens", "12", valid_from=SINCE + day, valid_to=SINCE + 2 * day),
            rate("llm", "cerebras", "1m_tokens", "14", valid_from=SINCE + 3 * day),
        ]
    )

    def price(moment: datetime) -> str | None:
        found = book.at(moment).find("llm", "token", "cerebras", "")
        return str(found.price_cents) if found else None

    tick = timedelta(microseconds=1)
    moments = [SINCE - tick, SINCE, SINCE + day - tick, SINCE + day, SINCE + 2 * day, SINCE + 3 * day, SINCE + 9 * day]
    assert [price(moment) for moment in moments] == [None, "10", "10", "12", None, "14", "14"]
    assert RateBook.load(book.dump()).rates == book.rates


def test_the_rate_that_names_most_is_taken_and_none_where_several_would_do() -> None:
    tariff = Tariff(
        [
            *SEEDS,
            rate("llm", "openai", "1m_tokens", "60"),
            rate("llm", "openai", "1m_tokens", "250", "gpt-4o"),
            rate("llm", "openai", "1m_completion_tokens", "1000", "gpt-4o"),
            rate("tts", "", "1k_characters", "3"),
        ]
    )

    def price(*use: str) -> str | None:
        found = tariff.find(*use)
        return str(found.price_cents) if found else None

    assert price("llm", "token", "OpenAILLMService#0", "gpt-4o") == "250"
    assert price("llm", "token", "openai", "gpt-4o-mini") == "60"
    assert price("llm", "completion_token", "openai", "gpt-4o") == "1000"
    assert price("llm", "token", "CerebrasLLMService#1", "llama3.1-8b") == "10"
    assert price("llm", "token", "", "") is None, "two providers, and nobody says which"
    assert price("llm", "token", "mistral", "") is None
    assert price("tts", "character", "cartesia", "sonic") == "3"
    assert price("tts", "character", "Eleven Labs", "") == "15"
    assert price("tts", "character", "", "") == "3", "what is for anybody comes before what is for one"
    assert price("stt", "second", "stt", "nova-2") == "0.43", "there is one provider, so it is that"
    assert price("telephony", "second", "twilio", "outbound") == "1.30"
    assert price("telephony", "second", "twilio", "inbound") is None
    assert price("telephony", "second", "", "outbound") is None, "a call that names no carrier may have none"


def test_cached_tokens_have_a_price_of_their_own_or_none() -> None:
    usage = {("llm", "prompt_token", "x", ""): Decimal(1000), ("llm", "cached_token", "x", ""): Decimal(400)}
    plain = rate("llm", "x", "1k_tokens", "10")
    assert [line.amount_cents for line in Tariff([plain]).lines(usage)] == [10]
    both = Tariff([plain, rate("llm", "x", "1k_cached_tokens", "1")])
    assert {line.measure: line.amount_cents for line in both.lines(usage)} == {
        "cached_token": Decimal("0.4"), "prompt_token": 6,
    }  # fmt: skip


def test_a_line_and_its_speech_recognition_cost_the_time_they_are_connected() -> None:
    meter = Meter()
    meter.metric("stt_delay", 120.0, "DeepgramSTTService", None)
    meter.connected(Connection(SINCE, SINCE + timedelta(seconds=90), "twilio", "outbound-api"))
    assert [(line.rate.service, line.amount_cents) for line in Tariff(SEEDS).lines(meter.usage)] == [
        ("stt", Decimal("0.645")), ("telephony", Decimal("1.95")),
    ]  # fmt: skip
    begun = Tariff([rate("telephony", "twilio", "minute", "1.30", "outbound", step=Decimal(1))])
    assert [line.amount_cents for line in begun.lines(meter.usage)] == [Decimal("2.6")]


# -- a whole call -----------------------------------------------------------------------------------------------------


def call(*metrics: dict[str, Any], costs: tuple[dict[str, Any], ...] = (), **state: Any) -> Call:
    made = Call("CA1", state={"started_at": SINCE + timedelta(days=9), **state})
    made.events[Family.METRIC] = [
        MODELS[Family.METRIC].event(event_id=str(number), **metric) for number, metric in enumerate(metrics)
    ]
    made.events[Family.COST] = [
        MODELS[Family.COST].event(event_id=str(number), **cost) for number, cost in enumerate(costs)
    ]
    return made


TALK = (
    {"metric_type": "llm_prompt_tokens", "value": 150_000.0, "processor": "cerebras"},
    {"metric_type": "llm_completion_tokens", "value": 50_000.0, "processor": "cerebras"},
    {"metric_type": "tts_characters", "value": 200.0, "processor": "elevenlabs"},
)


def held(made: Call) -> dict[str, Any]:
    return {name: {k: f"{v.normalize():f}" for k, v in cost.by_service.items()} for name, cost in costs_of(
        made, RateBook(SEEDS)).items()}  # fmt: skip


def test_nothing_reported_is_computed() -> None:
    assert held(call(*TALK)) == {"USD": {"llm": "2", "tts": "3"}}


def test_what_was_reported_wins_and_what_the_rates_say_stands_beside_it() -> None:
    made = call(*TALK, costs=({"service": "llm", "amount_cents": Decimal(7)},))
    assert held(made) == {"USD": {"llm": "7", "tts": "3"}}
    cost = costs_of(made, RateBook(SEEDS))["USD"]
    assert [cost.total, cost.reported, cost.computed] == [Decimal(10), Decimal(7), Decimal(5)]
    assert [(line["service"], line["holds"]) for line in cost.lines if isinstance(line, dict)] == [
        ("llm", False), ("llm", False), ("tts", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "service",
    [{"service": "elevenlabs"}, {"service": "text-to-speech"}, {"service": "speech", "provider": "ElevenLabs"}],
)
def test_a_charge_under_another_name_for_the_service_is_not_charged_twice(service: dict[str, str]) -> None:
    made = call(*TALK, costs=({**service, "amount_cents": Decimal(1)},))
    assert held(made) == {"USD": {"llm": "2", service["service"]: "1"}}


def test_a_charge_for_the_whole_call_leaves_nothing_to_be_computed() -> None:
    made = call(*TALK, costs=({"service": "total", "amount_cents": Decimal(30)},))
    assert held(made) == {"USD": {"total": "30"}}


def test_a_usage_without_a_price_is_rated_and_counts_in_place_of_the_metrics() -> None:
    usage = {"service": "llm", "usage": Decimal(3), "unit": "million tokens", "provider": "cerebras"}
    assert held(call(*TALK, costs=(usage,))) == {"USD": {"llm": "30", "tts": "3"}}
    nobodys = {"service": "llm", "usage": Decimal(3), "unit": "parsecs"}
    assert held(call(*TALK, costs=(nobodys,))) == {"USD": {"llm": "2", "tts": "3"}}


def test_a_charge_in_another_currency_wins_too() -> None:
    made = call(*TALK[:1], costs=({"service": "llm", "amount_cents": Decimal(7), "currency": "EUR"},))
    costs = costs_of(made, RateBook(SEEDS))
    assert total_of(costs) == 7
    assert costs["USD"].by_service == {}
    assert costs["USD"].computed == Decimal("1.5")


def test_a_call_before_all_rates_or_with_a_doubtful_time_costs_nothing() -> None:
    assert costs_of(call(*TALK, started_at=SINCE - timedelta(days=1)), RateBook(SEEDS)) == {}
    made = call(provider="twilio", direction="outbound", ended_at=SINCE + timedelta(days=10))
    made.doubtful = True
    assert costs_of(made, RateBook(SEEDS)) == {}


@pytest.mark.parametrize("status", ["busy", "no_answer", "canceled", "failed"])
def test_whoever_was_not_reached_was_not_connected(status: str) -> None:
    reached: dict[str, Any] = {
        "provider": "twilio",
        "direction": "outbound",
        "ended_at": SINCE + timedelta(days=9, seconds=60),
    }
    assert held(call(status=status, **reached)) == {}
    assert held(call(status="completed", **reached)) == {"USD": {"telephony": "1.3"}}
    answered = SINCE + timedelta(days=9, seconds=30)
    assert held(call(status=status, answered_at=answered, **reached)) == {"USD": {"telephony": "0.65"}}
