"""Users' balances on a real archive: one deduction a call, adjustments after it, a policy that says what is short."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import structlog

from session_bridge.archive.credits import balances, grant, history
from session_bridge.errors import DataRefusedError, SettingsError
from session_bridge.settings import load_settings

Open = Callable[..., Awaitable[Any]]
AT = 1_795_600_000
LATE: dict[str, Any] = {"message:9": {"role": "user", "content": "late"}}


def call(cents: str, user: str = "ada", **more: Any) -> dict[str, Any]:
    return {
        "user_id": user, "tenant_id": "t1", "started_at": str(AT), "ended_at": str(AT + 60),
        "cost:1": {"service": "telephony", "amount_cents": cents}, **more,
    }  # fmt: skip


async def drained(bridge: Any, sid: str, fields: dict[str, Any]) -> None:
    await bridge.ask(sid, fields)
    await bridge.drain()


async def entries(bridge: Any) -> list[tuple[Any, ...]]:
    rows = await bridge.rows(
        "SELECT kind, amount_cents, balance_before, balance_after, charge_cents, shortfall_cents "
        "FROM credit_transactions ORDER BY id"
    )
    return [tuple(map(_plain, row.values())) for row in rows]


def _plain(value: Any) -> str | None:
    return f"{value.normalize() + 0:f}" if isinstance(value, Decimal) else value


async def balance(bridge: Any, user: str = "ada") -> Decimal:
    [found] = await balances(bridge.bridge.connections, user_id=user)
    return found.balance_cents


@pytest.fixture
async def bridge(bridge_with: Open) -> Any:
    return await bridge_with(credits="allow_negative")


async def test_a_call_is_deducted_once_and_adjusted_when_it_comes_to_something_else(bridge: Any) -> None:
    connections = bridge.bridge.connections
    assert await grant(connections, "t1", "ada", Decimal(10), currency="USD", note="welcome") == 10
    await drained(bridge, "CA1", call("2.5"))
    await drained(bridge, "CA1", call("2.5"))
    await drained(bridge, "CA1", call("4"))
    await drained(bridge, "CA1", call("1.25", **LATE))
    assert await entries(bridge) == [
        ("grant", "10", "0", "10", None, None),
        ("deduction", "-2.5", "10", "7.5", "2.5", "0"),
        ("adjustment", "-1.5", "7.5", "6", "4", "0"),
        ("adjustment", "2.75", "6", "8.75", "1.25", "0"),
    ]
    assert await balance(bridge) == Decimal("8.75")
    told = await history(connections, "t1", "ada")
    assert [one.kind for one in told] == ["adjustment", "adjustment", "deduction", "grant"]
    assert told[0].session_id == (await bridge.call("CA1"))["id"]


async def test_a_drain_that_changes_nothing_touches_no_row_of_money(bridge: Any) -> None:
    await drained(bridge, "CA1", call("2.5"))
    query = "SELECT xmin::text, balance_cents, updated_at FROM user_credits"
    before = await bridge.rows(query), await entries(bridge)
    for _ in range(3):
        await drained(bridge, "CA1", call("2.5"))
    assert (await bridge.rows(query), await entries(bridge)) == before


async def test_a_longer_call_costs_its_user_more(bridge: Any) -> None:
    fields = {"provider": "twilio", "direction": "outbound", **call("0")}
    del fields["cost:1"]
    await drained(bridge, "CA1", fields)
    await drained(bridge, "CA1", {"ended_at": str(AT + 120)})
    assert [entry[:2] for entry in await entries(bridge)] == [("deduction", "-1.3"), ("adjustment", "-1.3")]


async def test_a_call_that_lives_or_names_no_user_or_costs_nothing_is_not_settled(bridge: Any) -> None:
    await bridge.write("CA1", {**call("2"), "ended_at": "", "status": "in-progress"})
    await bridge.redis.zadd(bridge.bridge.keys.checkpoints, {"CA1": 0})
    await bridge.bridge.loop.drain_once()
    assert (await bridge.call("CA1"))["total_cost_cents"] == 2
    await drained(bridge, "CA2", {**call("2"), "user_id": ""})
    await drained(bridge, "CA3", call("0"))
    await drained(bridge, "CA4", call("3", user="x" * 300))
    assert await entries(bridge) == []
    await drained(bridge, "CA1", {"ended_at": str(AT + 9)})
    assert [entry[0] for entry in await entries(bridge)] == ["deduction"]


async def test_nothing_is_settled_unless_it_is_asked_for(bridge_with: Open) -> None:
    bridge = await bridge_with()
    await drained(bridge, "CA1", call("2"))
    assert await bridge.rows("SELECT FROM user_credits") == []


async def test_a_floor_is_kept_and_what_is_short_is_said(bridge_with: Open) -> None:
    bridge = await bridge_with(credits="floor", credit_floor_cents="-1")
    await grant(bridge.bridge.connections, "t1", "ada", Decimal(3), currency="USD")
    with structlog.testing.capture_logs() as logs:
        await drained(bridge, "CA1", call("10"))
        await drained(bridge, "CA1", call("10", **LATE))
    assert [line["shortfall_cents"] for line in logs if line["event"] == "credits.short"] == ["6.0000000000"]
    assert await balance(bridge) == -1
    await grant(bridge.bridge.connections, "t1", "ada", Decimal(5), currency="USD")
    await drained(bridge, "CA1", call("10"))  # identical: what was short stays short
    await drained(bridge, "CA1", call("7"))  # less: what was never taken is let off first
    await drained(bridge, "CA1", call("2"))
    await drained(bridge, "CA1", call("30"))
    assert await entries(bridge) == [
        ("grant", "3", "0", "3", None, None),
        ("deduction", "-4", "3", "-1", "10", "6"),
        ("grant", "5", "-1", "4", None, None),
        ("adjustment", "0", "4", "4", "7", "3"),
        ("adjustment", "2", "4", "6", "2", "0"),
        ("adjustment", "-7", "6", "-1", "30", "21"),
    ]
    journal = await bridge.rows("SELECT detail FROM call_journal WHERE event = 'credits_short' ORDER BY at")
    assert [Decimal(row["detail"]["shortfall_cents"]) for row in journal] == [6, 3, 21]


async def test_a_balance_that_goes_below_nothing_is_said(bridge: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        await drained(bridge, "CA1", call("10"))
        await drained(bridge, "CA1", call("8"))
    assert [line["event"] for line in logs if line["event"].startswith("credits")] == ["credits.negative"]
    assert await balance(bridge) == -8


async def test_a_call_given_to_another_user_is_still_the_first_ones(bridge: Any) -> None:
    await drained(bridge, "CA1", call("2"))
    with structlog.testing.capture_logs() as logs:
        await drained(bridge, "CA1", call("3", user="bob"))
    assert "credits.other_user" in [line["event"] for line in logs]
    assert await balance(bridge) == -3
    assert await balances(bridge.bridge.connections, user_id="bob") == []


async def test_only_the_currency_of_the_credits_is_deducted(bridge: Any) -> None:
    euros: dict[str, Any] = {"cost:2": {"service": "llm", "amount_cents": 50, "currency": "EUR"}}
    await drained(bridge, "CA1", call("2", **euros))
    assert await balance(bridge) == -2


async def test_a_second_deduction_is_refused_by_the_archive_itself(bridge: Any) -> None:
    await drained(bridge, "CA1", call("2"))
    again = (
        "INSERT INTO credit_transactions (tenant_id, user_id, currency, kind, session_id, amount_cents, "
        "balance_before, balance_after, charge_cents, shortfall_cents) "
        "SELECT tenant_id, user_id, currency, kind, session_id, amount_cents, balance_before, balance_after, "
        "charge_cents, shortfall_cents FROM credit_transactions"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        await bridge.rows(again)


async def test_two_calls_of_one_user_at_once_add_up(bridge_with: Open) -> None:
    """Five workers, users that meet in every batch, each call drained by several at once: no deadlock, no cent lost."""
    workers = [await bridge_with(credits="allow_negative", batch_size=7) for _ in range(5)]
    chance = random.Random(5)
    users = [f"u{number}" for number in range(6)]
    owed: dict[str, Decimal] = dict.fromkeys(users, Decimal(0))
    for number in range(120):
        user, cents = chance.choice(users), Decimal(chance.randint(1, 999)) / 100
        owed[user] += cents
        await workers[0].ask(f"CA{number}", call(str(cents), user=user))
    for user in users:
        await grant(workers[0].bridge.connections, "t1", user, Decimal(1000), currency="USD")
    again = [f"CA{number}" for number in range(120)]

    async def work(one: Any) -> None:
        for _ in range(3):
            await one.drain()
            await one.redis.zadd(one.bridge.keys.ready, dict.fromkeys(chance.sample(again, 30), 0))

    await asyncio.gather(*map(work, workers))
    await workers[0].drain()
    rows = await workers[0].rows("SELECT user_id, balance_cents FROM user_credits")
    assert {row["user_id"]: row["balance_cents"] for row in rows} == {user: 1000 - owed[user] for user in users}
    [counted] = await workers[0].rows(
        "SELECT count(*) AS all, count(DISTINCT session_id) AS calls FROM credit_transactions WHERE kind <> 'grant'"
    )
    assert counted == {"all": 120, "calls": 120}
    chain = await workers[0].rows(
        "SELECT count(*) FROM (SELECT balance_before, lag(balance_after) OVER (PARTITION BY user_id ORDER BY id) "
        "AS left_over FROM credit_transactions) AS entry WHERE balance_before IS DISTINCT FROM coalesce(left_over, 0)"
    )
    assert chain == [{"count": 0}], "each entry begins where the one before it ended"
    assert not await workers[0].rows("SELECT FROM dead_sessions")


async def test_a_grant_that_no_balance_can_hold_is_refused(bridge: Any) -> None:
    with pytest.raises(DataRefusedError):
        await grant(bridge.bridge.connections, "t1", "ada", Decimal("1e20"), currency="USD")
    assert await entries(bridge) == []


def test_a_policy_is_one_that_there_is() -> None:
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_CREDITS"):
        load_settings(credits="perhaps")
