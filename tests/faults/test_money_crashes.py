"""A worker killed at any step around a call's money leaves each call deducted once, and the month as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

NOW = datetime.now(UTC).isoformat()
SETTINGS = {"LEASE_SECONDS": 2, "CREDITS": "allow_negative", "RATES_SECONDS": 0}
POINTS = ["locked", "written", "credits settled", "budget added up", "committed", "money told", "released"]


def call(cents: str) -> dict[str, str]:
    return {
        "user_id": "ada", "started_at": NOW, "ended_at": NOW, "status": "completed",
        "cost:1": json.dumps({"service": "telephony", "amount_cents": cents}),
    }  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_worker_deducts_once(deployment: Any, dying: Callable[..., Any], point: str) -> None:
    deployment.rows("INSERT INTO user_budget_settings (user_id, monthly_budget_cents) VALUES ('ada', 1000)")
    deployment.rows("SELECT grant_credits('', 'ada', 100)")
    for sid, cents in (("CA1", "10"), ("CA2", "5.5")):
        deployment.write(sid, call(cents))
        deployment.redis.hset("session-bridge:spend:" + sid, "part:x", cents)
    deployment.ask("CA1", "CA2")
    dying(point, "worker", **SETTINGS).wait_for_its_death()
    worker = deployment.begin_worker(**SETTINGS)
    deployment.until_archived("CA1")
    deployment.until_archived("CA2")
    # The same again, with a correction: adjusted, and nothing deducted twice.
    deployment.drain("CA1", call("12"))
    deployment.drain("CA2", call("5.5"))
    worker.stop()

    assert deployment.rows("SELECT balance_cents FROM user_credits") == [(Decimal("82.5"),)]
    entries = deployment.rows(
        "SELECT call_sid, kind, amount_cents FROM credit_transactions JOIN call_sids USING (session_id) ORDER BY 1, 2"
    )
    adjusted = [("CA1", "adjustment", Decimal(-2)), ("CA1", "deduction", Decimal(-10))]
    assert entries == [*adjusted, ("CA2", "deduction", Decimal("-5.5"))]
    [[spent, version]] = deployment.rows("SELECT month_spend_cents, version FROM user_budget_settings")
    assert spent == Decimal("17.5")
    [key] = deployment.redis.keys("session-bridge:budget:*")
    told = deployment.redis.hgetall(key)
    assert Decimal(json.loads(told["budget"])["spent"]) == Decimal("17.5")
    assert int(told["version"]) == version
    assert not deployment.redis.keys("session-bridge:spend:*")
