"""The money commands, as people and programs use them, and what a worker makes of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

FIELDS = {
    "provider": "twilio", "direction": "outbound", "user_id": "ada", "status": "completed",
    "started_at": "2026-11-02T10:00:00Z", "ended_at": "2026-11-02T10:01:30Z",
    "metric:1": '{"metric_type": "llm_prompt_tokens", "value": 250000, "processor": "CerebrasLLMService"}',
}  # fmt: skip


def ok(deployment: Any, *arguments: str, **settings: object) -> str:
    done = deployment.run(*arguments, **settings)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_rates_are_listed_set_and_ended(deployment: Any) -> None:
    seeds = json.loads(ok(deployment, "rates", "list", "--json"))
    assert {(rate["service"], rate["provider"], rate["unit"], rate["price_cents"]) for rate in seeds} == {
        ("telephony", "twilio", "minute", "1.3000000000"),
        ("stt", "deepgram", "minute", "0.4300000000"),
        ("llm", "cerebras", "1m_tokens", "10.0000000000"),
        ("tts", "elevenlabs", "1k_characters", "15.0000000000"),
    }
    made = json.loads(
        ok(deployment, "rates", "set", "llm", "cerebras", "--unit", "million tokens", "--price", "12.5",
           "--from", "2026-11-01", "--json")
    )  # fmt: skip
    assert (made["unit"], made["price_cents"]) == ("1m_tokens", "12.5000000000")
    assert "12.50" in ok(deployment, "rates", "list")
    november = json.loads(ok(deployment, "rates", "list", "--at", "2026-11-02", "--json"))
    assert [rate["price_cents"] for rate in november if rate["service"] == "llm"] == ["12.5000000000"]
    ok(deployment, "rates", "end", "llm", "cerebras", "--unit", "1m_tokens", "--at", "2026-12-01")
    assert deployment.run("rates", "end", "llm", "nobody", "--unit", "1m_tokens").returncode == 1
    for wrong in (("--price", "much"), ("--price", "-1"), ("--price", "1", "--from", "then")):
        done = deployment.run("rates", "set", "llm", "x", "--unit", "minute", *wrong)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
    worker = deployment.worker()
    assert deployment.drain("CA1", FIELDS)["total_cost_cents"] == Decimal("5.075")
    worker.stop()


def test_credits_are_granted_deducted_and_shown(deployment: Any) -> None:
    assert json.loads(ok(deployment, "credits", "grant", "ada", "100", "--note", "welcome", "--json")) == {
        "tenant_id": "", "user_id": "ada", "currency": "USD", "balance_cents": "100.0000000000",
    }  # fmt: skip
    assert "90.00" in ok(deployment, "credits", "grant", "ada", "-10", "--currency", "usd")
    worker = deployment.worker(CREDITS="floor", CREDIT_CURRENCY="usd")
    deployment.drain("CA1", FIELDS)
    worker.stop()
    shown = json.loads(ok(deployment, "credits", "show", "ada", "--json"))
    assert [one["balance_cents"] for one in shown["balances"]] == ["85.5500000000"]
    assert [one["kind"] for one in shown["transactions"]] == ["deduction", "grant", "grant"]
    table = ok(deployment, "credits", "show", "ada")
    assert "welcome" in table
    assert "-4.45" in table
    assert "85.55" in ok(deployment, "credits", "show")
    assert "no balances" in ok(deployment, "credits", "show", "bob")
    assert deployment.run("credits", "grant", "ada", "ten").returncode == 2


def test_budgets_are_set_shown_and_removed(deployment: Any) -> None:
    ok(deployment, "budget", "set", "ada", "--month", "100", "--call", "4", "--cutoff", "--warn-at", "0.5")
    [told] = json.loads(ok(deployment, "budget", "show", "ada", "--json"))
    assert (told["monthly_budget_cents"], told["warning_threshold"], told["auto_cutoff"]) == (
        "100.0000000000", "0.5000", True,
    )  # fmt: skip
    assert told["live_calls"] == {}
    assert "call cap cents" in ok(deployment, "budget", "show", "ada")
    assert "ada" in ok(deployment, "budget", "show")
    assert deployment.redis.keys("session-bridge:budget:*")
    ok(deployment, "budget", "remove", "ada")
    assert not deployment.redis.keys("session-bridge:budget:*")
    assert deployment.run("budget", "remove", "ada").returncode == 1


def test_a_worker_tells_recorders_of_what_it_finds_and_says_once_that_a_budget_is_spent(
    deployment: Any, until: Any
) -> None:
    deployment.rows("INSERT INTO user_budget_settings (user_id, monthly_budget_cents) VALUES ('ada', 4)")
    worker = deployment.worker()
    until(lambda: deployment.redis.keys("session-bridge:budget:*") and deployment.redis.exists("session-bridge:rates"))
    moment = datetime.now(UTC)
    fields = {**FIELDS, "started_at": (moment - timedelta(seconds=90)).isoformat(), "ended_at": moment.isoformat()}
    for number in range(3):
        deployment.drain(f"CA{number}", fields)
    worker.wait_for("budget.exceeded")
    [key] = deployment.redis.keys("session-bridge:budget:*")
    until(lambda: json.loads(deployment.redis.hget(key, "budget"))["spent"] != "0")
    worker.stop()
    assert len(worker.said("budget.exceeded")) == 1
    assert "ada" not in worker.text
