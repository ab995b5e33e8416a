"""Users' budgets on real servers: the month added up with each call, thresholds reached once, and recorders told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog

from session_bridge.archive.budgets import budget_status, remove_budget, set_budget
from session_bridge.contract.budget import Budget
from session_bridge.live.budgets import Told
from session_bridge.recorder import user_spend

Open = Callable[..., Awaitable[Any]]
BEGUN = datetime.now(UTC)
LIMITS = Budget(monthly_cents=Decimal(100), call_cap_cents=Decimal(40), auto_cutoff=True)


def month_start() -> datetime:
    return datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def call(cents: str, user: str = "ada", started: datetime | None = None, **more: Any) -> dict[str, Any]:
    begun = started or BEGUN
    return {
        "user_id": user, "started_at": begun.isoformat(), "ended_at": begun.isoformat(),
        "cost:1": {"service": "telephony", "amount_cents": cents}, **more,
    }  # fmt: skip


async def budget(bridge: Any, user: str = "ada", limits: Budget = LIMITS) -> None:
    await set_budget(bridge.bridge.connections, "", user, limits, datetime.now(UTC))
    await bridge.bridge.money.refresh(at_once=True)


async def row(bridge: Any, user: str = "ada") -> dict[str, Any]:
    [found] = await bridge.rows("SELECT * FROM user_budget_settings WHERE user_id = %s", user)
    kept: dict[str, Any] = found
    return kept


async def test_the_month_is_added_up_with_each_call_and_its_corrections(bridge: Any) -> None:
    await bridge.ask("CA0", call("7"))
    await bridge.drain()
    await budget(bridge)
    assert (await row(bridge))["month_spend_cents"] == 7, "what was spent before there was a budget counts"
    await bridge.ask("CA1", call("10"))
    await bridge.ask("CA2", call("5", started=month_start() - timedelta(days=2)))
    await bridge.ask("CA3", call("50", user="bob"))
    await bridge.drain()
    found = await row(bridge)
    assert (found["month_spend_cents"], found["month"]) == (17, month_start().date())
    await bridge.ask("CA1", call("2.25"))
    await bridge.drain()
    assert (await row(bridge))["month_spend_cents"] == Decimal("9.25")
    spent = await user_spend(bridge.redis, "ada", keys=bridge.bridge.keys)
    assert spent.month_cents == Decimal("9.25")
    assert spent.budget is not None
    assert spent.budget.call_cap_cents == 40
    [status] = await budget_status(bridge.bridge.connections)
    assert (status.month_spend_cents, status.living_cents) == (Decimal("9.25"), Decimal(0))
    assert status.auto_cutoff


async def test_a_threshold_is_reached_once_however_many_workers_bring_its_calls(bridge_with: Open) -> None:
    workers = [await bridge_with(batch_size=3) for _ in range(4)]
    await budget(workers[0])
    for worker in workers[1:]:
        await worker.bridge.money.refresh(at_once=True)
    for number in range(40):
        await workers[0].ask(f"CA{number}", call("3"))
    with structlog.testing.capture_logs() as logs:
        await asyncio.gather(*(worker.drain() for worker in workers))
        for number in range(40):
            await workers[0].ask(f"CA{number}", call("3"))
        await asyncio.gather(*(worker.drain() for worker in workers))
    events = [line["event"] for line in logs]
    assert events.count("budget.exceeded") == 1
    assert events.count("budget.warning") <= 1, "a batch may cross both at once"
    found = await row(workers[0])
    assert found["month_spend_cents"] == 120
    assert found["warned_at"] <= found["exceeded_at"]
    told = await user_spend(workers[0].redis, "ada", keys=workers[0].bridge.keys)
    assert told.month_cents == 120, "the last word is the newest"


async def test_a_threshold_that_was_reached_stays_so_and_a_new_month_begins_anew(bridge: Any) -> None:
    await budget(bridge)
    with structlog.testing.capture_logs() as logs:
        for cents in ("85", "10", "90"):
            await bridge.ask("CA1", call(cents))
            await bridge.drain()
    assert [line["event"] for line in logs if line["event"].startswith("budget")] == ["budget.warning"]
    await bridge._connection.execute("UPDATE user_budget_settings SET month = month - interval '1 month'")
    with structlog.testing.capture_logs() as logs:
        await bridge.ask("CA2", call("1"))
        await bridge.drain()
    assert [line["event"] for line in logs if line["event"].startswith("budget")] == ["budget.warning"]


async def test_a_call_that_lives_counts_when_it_has_ended(bridge: Any) -> None:
    await budget(bridge)
    await bridge.write("CA1", {**call("9"), "ended_at": "", "status": "in-progress"})
    await bridge.redis.zadd(bridge.bridge.keys.checkpoints, {"CA1": 0})
    await bridge.bridge.loop.drain_once()
    [status] = await budget_status(bridge.bridge.connections, user_id="ada")
    assert [status.month_spend_cents, status.living_cents] == [Decimal(0), Decimal(9)]
    await bridge.ask("CA1")
    await bridge.drain()
    [status] = await budget_status(bridge.bridge.connections, user_id="ada")
    assert [status.month_spend_cents, status.living_cents] == [Decimal(9), Decimal(0)]


async def test_recorders_are_told_of_what_was_changed_by_hand_and_anew_after_a_flush(bridge_with: Open) -> None:
    bridge = await bridge_with(rates_seconds=0)
    keys, money = bridge.bridge.keys, bridge.bridge.money
    for number in range(3):
        await bridge._connection.execute(
            "INSERT INTO user_budget_settings (user_id, call_cap_cents) VALUES (%s, 5)", (f"u{number}",)
        )
    await money.refresh()

    async def caps() -> list[Decimal | None]:
        found = [await user_spend(bridge.redis, f"u{number}", keys=keys) for number in range(3)]
        return [one.budget.call_cap_cents if one.budget else None for one in found]

    assert await caps() == [5, 5, 5]
    await bridge._connection.execute("UPDATE user_budget_settings SET call_cap_cents = 6 WHERE user_id = 'u1'")
    await money.refresh()
    assert await caps() == [5, 6, 5]
    await bridge.redis.flushdb()
    await money.refresh()
    assert await caps() == [5, 6, 5]
    assert await bridge.redis.exists(keys.rates)
    assert await remove_budget(bridge.bridge.connections, "", "u1")
    await bridge.bridge.board.forget("", "u1")
    await money.refresh()
    assert await caps() == [5, None, 5]


async def test_an_older_word_never_replaces_a_newer_one(bridge: Any) -> None:
    board, keys = bridge.bridge.board, bridge.bridge.keys
    for version, spent in ((3, 30), (2, 20), (3, 31), (10, 40), (9, 1)):
        await board.tell([Told("", "ada", version, replace(LIMITS, month=f"{month_start():%Y-%m}",
                                                           spent_cents=Decimal(spent)))])  # fmt: skip
    assert (await user_spend(bridge.redis, "ada", keys=keys)).month_cents == 40


async def test_the_names_of_users_are_in_no_key(bridge: Any) -> None:
    await budget(bridge, "+15550100")
    keys = await bridge.redis.keys()
    assert keys
    assert not [key for key in keys if b"5550100" in key]
