"""What a call cost, on a real archive: by the rates of its day, beside what was reported, anew when more is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from session_bridge.archive.migrations import migrate
from session_bridge.archive.rates import end_rate, read_rates, set_rate
from session_bridge.contract.rates import Rate, RateBook
from session_bridge.errors import DataRefusedError

AT = datetime(2026, 11, 2, 10, tzinfo=UTC)
TALK: dict[str, Any] = {
    "provider": "twilio", "direction": "outbound", "user_id": "ada", "tenant_id": "t1",
    "started_at": AT.isoformat(), "ended_at": (AT + timedelta(seconds=90)).isoformat(),
    "message:1": {"role": "user", "content": "hello"},
    "metric:1": {"metric_type": "stt_delay", "value": 120, "processor": "DeepgramSTTService"},
    "metric:2": {"metric_type": "llm_prompt_tokens", "value": 120_000, "processor": "CerebrasLLMService"},
    "metric:3": {"metric_type": "llm_completion_tokens", "value": 1, "processor": "CerebrasLLMService"},
    "metric:4": {"metric_type": "tts_characters", "value": 100, "processor": "ElevenLabsTTSService"},
}  # fmt: skip
# 1.5 minutes at 1.30 and at 0.43 cents, 120,001 tokens at 10 cents a million, 100 characters at 15 cents a thousand.
BY_SERVICE = {"telephony": "1.95", "stt": "0.645", "llm": "1.20001", "tts": "1.5"}
TOTAL = Decimal("5.29501")


def same(one: dict[str, str], other: dict[str, str]) -> bool:
    return {name: Decimal(value) for name, value in one.items()} == {name: Decimal(v) for name, v in other.items()}


async def costs(bridge: Any, sid: str) -> dict[str, Any]:
    [row] = await bridge.of(sid, "call_cost_breakdowns", "currency")
    found: dict[str, Any] = row
    return found


def rate(price: str, since: datetime, until: datetime | None = None, unit: str = "1m_tokens") -> Rate:
    return Rate("llm", "cerebras", "", unit, Decimal(price), since, until)


async def test_the_seeds_rate_a_call_by_its_durations_tokens_and_characters(bridge: Any) -> None:
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    row = await costs(bridge, "CA1")
    assert same(row["by_service"], BY_SERVICE)
    assert row["total_cost_cents"] == row["computed_cents"] == TOTAL
    assert row["reported_cents"] is None
    assert row["tenant_id"] == "t1"
    assert (await bridge.call("CA1"))["total_cost_cents"] == TOTAL
    lines = {(line["service"], line["measure"]): line for line in row["computed"]}
    assert lines["telephony", "second"]["quantity"] == "90"
    assert lines["llm", "prompt_token"]["amount_cents"] == "1.2"
    ids = {row["id"] for row in await bridge.rows("SELECT id FROM provider_rates")}
    assert {line["rate_id"] for line in row["computed"]} == ids
    assert (await bridge.call("CA1"))["row_counts"]["call_cost_breakdowns"] == 1


async def test_a_second_drain_of_the_same_changes_no_row_of_money(bridge: Any) -> None:
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    before = await bridge.rows("SELECT xmin::text, * FROM call_cost_breakdowns")
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    assert await bridge.rows("SELECT xmin::text, * FROM call_cost_breakdowns") == before
    assert (await bridge.call("CA1"))["drains"] == 2


async def test_late_usage_is_rated_anew_and_a_late_end_too(bridge: Any) -> None:
    await bridge.ask("CA1", {**TALK, "ended_at": (AT + timedelta(seconds=30)).isoformat()})
    await bridge.drain()
    assert same((await costs(bridge, "CA1"))["by_service"], {**BY_SERVICE, "telephony": "0.65", "stt": "0.215"})
    await bridge.ask(
        "CA1",
        {
            "metric:5": {"metric_type": "llm_completion_tokens", "value": 50_000, "processor": "CerebrasLLMService"},
            "ended_at": (AT + timedelta(seconds=90)).isoformat(),
        },
    )
    await bridge.drain()
    assert same((await costs(bridge, "CA1"))["by_service"], {**BY_SERVICE, "llm": "1.70001"})
    assert (await bridge.call("CA1"))["total_cost_cents"] == TOTAL + Decimal("0.5")


async def test_a_reported_price_wins_and_what_was_computed_stands_beside_it(bridge: Any) -> None:
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    await bridge.ask("CA1", {"cost:1": {"service": "telephony", "amount_cents": "2.60", "provider": "twilio"}})
    await bridge.drain()
    row = await costs(bridge, "CA1")
    assert same(row["by_service"], {**BY_SERVICE, "telephony": "2.60"})
    assert (row["reported_cents"], row["computed_cents"]) == (Decimal("2.6"), TOTAL)
    assert row["total_cost_cents"] == TOTAL - Decimal("1.95") + Decimal("2.60")
    assert [line["holds"] for line in row["computed"] if line["service"] == "telephony"] == [False]


async def test_the_rate_of_a_calls_day_is_the_one_that_counts(bridge_with: Any) -> None:
    bridge = await bridge_with(rates_seconds=0)
    change = AT + timedelta(days=1)
    await set_rate(bridge.bridge.connections, rate("20", change))
    for number, start in enumerate((change - timedelta(microseconds=1), change)):
        tokens = {**TALK["metric:2"], "value": 1_000_000}
        await bridge.ask(
            f"CA{number}", started_at=start.isoformat(), ended_at=start.isoformat(), **{"metric:1": tokens}
        )
    await bridge.drain()
    assert (await bridge.call("CA0"))["total_cost_cents"] == 10
    assert (await bridge.call("CA1"))["total_cost_cents"] == 20


async def test_a_checkpoint_says_what_a_live_call_costs_by_now(bridge: Any) -> None:
    now = datetime.now(UTC)
    live = {name: value for name, value in TALK.items() if name != "ended_at"}
    live |= {
        "started_at": (now - timedelta(seconds=60)).isoformat(), "last_activity_at": now.isoformat(),
        "status": "in-progress",
    }  # fmt: skip
    await bridge.write("CA1", live)
    await bridge.redis.zadd(bridge.bridge.keys.checkpoints, {"CA1": 0})
    await bridge.bridge.loop.drain_once()
    assert same((await costs(bridge, "CA1"))["by_service"], {**BY_SERVICE, "telephony": "1.3", "stt": "0.43"})
    [spent] = await bridge.rows(
        "SELECT * FROM user_spend('t1', 'ada', 'USD', now() - interval '1 day', now() + interval '1 day')"
    )
    assert spent == {"ended_cents": 0, "living_cents": (await bridge.call("CA1"))["total_cost_cents"]}


async def test_without_rates_nothing_is_computed(bridge_with: Any) -> None:
    bridge = await bridge_with(rates=False)
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    assert await bridge.of("CA1", "call_cost_breakdowns", "currency") == []
    assert (await bridge.call("CA1"))["total_cost_cents"] is None


async def test_a_worker_reads_rates_anew(bridge_with: Any) -> None:
    kept, read = await bridge_with(), await bridge_with(rates_seconds=0)
    for bridge in (kept, read):
        await bridge.bridge.money.refresh()
    await set_rate(read.bridge.connections, rate("20", AT - timedelta(days=1)))
    for number, bridge in enumerate((kept, read)):
        await bridge.ask(f"CA{number}", TALK)
        await bridge.drain()
    assert (await kept.call("CA0"))["total_cost_cents"] == TOTAL
    assert (await read.call("CA1"))["total_cost_cents"] == TOTAL + Decimal("1.20001")
    published = await read.redis.get(read.bridge.keys.rates)
    assert RateBook.load(published).rates == tuple(
        Rate(**{**{n: getattr(r, n) for n in r.__slots__}, "rate_id": 0})
        for r in (await read_rates(read.bridge.connections)).rates
    )


# -- the table of rates -----------------------------------------------------------------------------------------------


async def test_a_new_rate_ends_the_one_before_it_and_ends_where_a_later_one_begins(bridge: Any) -> None:
    connections = bridge.bridge.connections
    day = timedelta(days=1)
    await set_rate(connections, rate("30", AT + 2 * day))
    await set_rate(connections, rate("20", AT))
    await set_rate(connections, rate("21", AT))
    await set_rate(connections, rate("5", AT - day, AT - day / 2))
    rows = await bridge.rows(
        "SELECT price_cents::float8 AS price, valid_from, valid_to FROM provider_rates "
        "WHERE service = 'llm' ORDER BY valid_from"
    )
    seed = datetime(2025, 1, 1, tzinfo=UTC)
    assert [(row["price"], row["valid_from"], row["valid_to"]) for row in rows] == [
        (10, seed, AT - day), (5, AT - day, AT - day / 2), (21, AT, AT + 2 * day), (30, AT + 2 * day, None),
    ]  # fmt: skip
    assert await end_rate(connections, "llm", "cerebras", "", "1m_tokens", at=AT + 3 * day)
    assert not await end_rate(connections, "llm", "cerebras", "", "1m_tokens", at=AT + 4 * day)
    with pytest.raises(DataRefusedError):
        await set_rate(connections, rate("-1", AT))


@pytest.mark.parametrize(
    ("since", "until"), [("2024-01-01", None), ("2025-01-01", "2025-01-02"), ("2026-01-01", "2027-01-01")]
)
async def test_the_archive_takes_no_two_rates_at_one_moment(bridge: Any, since: str, until: str | None) -> None:
    insert = (
        "INSERT INTO provider_rates (service, provider, model, unit, price_cents, valid_from, valid_to) "
        "VALUES ('llm', %s, %s, %s, 1, %s, %s)"
    )
    with pytest.raises(psycopg.errors.ExclusionViolation):
        await bridge.rows(insert, "cerebras", "", "1m_tokens", since, until)
    for other in (("cerebra", "", "1m_tokens"), ("cerebras", "x", "1m_tokens"), ("cerebras", "", "1k_tokens")):
        await bridge._connection.execute(insert, (*other, since, until))


async def test_many_who_set_rates_at_once_leave_one_for_each_moment(bridge_with: Any) -> None:
    bridges = [await bridge_with() for _ in range(3)]
    await asyncio.gather(
        *(
            set_rate(one.bridge.connections, rate(str(number + 1), AT + timedelta(hours=number % 4)))
            for number, one in enumerate(bridges * 4)
        )
    )
    rows = await bridges[0].rows("SELECT valid_from, valid_to FROM provider_rates WHERE service = 'llm' ORDER BY 1")
    assert len(rows) == 5
    assert [row["valid_to"] for row in rows] == [*(row["valid_from"] for row in rows[1:]), None]


# -- the migration ----------------------------------------------------------------------------------------------------


async def test_the_migration_goes_down_and_up_again_under_archived_calls(bridge: Any, database_url: str) -> None:
    def to(version: int | None) -> None:
        migrate(database_url, to=version)

    move: Callable[..., Any] = asyncio.to_thread
    await bridge.ask("CA1", TALK)
    await bridge.drain()
    await bridge.rows("SELECT grant_credits('t1', 'ada', 100)")
    await bridge._connection.execute("INSERT INTO user_budget_settings (user_id, call_cap_cents) VALUES ('ada', 5)")
    await move(to, 3)
    [row] = await bridge.rows("SELECT * FROM call_cost_breakdowns")
    assert row["total_cost_cents"] == TOTAL
    assert "computed" not in row
    await move(to, None)
    # The schema is another one to this connection's cache, as to any that was open meanwhile.
    await bridge.ask("CA1", {"metric:9": {"metric_type": "tts_characters", "value": 1000, "processor": "elevenlabs"}})
    await bridge.drain()
    row = await costs(bridge, "CA1")
    assert row["total_cost_cents"] == row["computed_cents"] == TOTAL + 15
    assert await bridge.rows("SELECT * FROM credit_transactions") == []
