"""What a live call costs, and the word to its session manager: once when a limit is near, once when it is reached."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from deployments import eventually
from session_bridge.archive.budgets import set_budget
from session_bridge.contract.keys import Keys
from session_bridge.contract.rates import Rate, RateBook
from session_bridge.live.budgets import BudgetBoard, Told
from session_bridge.recorder import Budget, BudgetNotice, CallRecorder, user_spend

QUICK = 0.02
TOKENS: dict[str, Any] = {"processor": "CerebrasLLMService"}
LIMITS = Budget(monthly_cents=Decimal(1000), call_cap_cents=Decimal(10), auto_cutoff=True)
RATES = RateBook(
    [
        Rate("llm", "cerebras", "", "1m_tokens", Decimal(10), datetime(2025, 1, 1, tzinfo=UTC)),
        Rate("telephony", "twilio", "outbound", "minute", Decimal("1.3"), datetime(2025, 1, 1, tzinfo=UTC)),
    ]
)


@pytest.fixture(autouse=True)
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path / "spool"))


async def publish(url: str, budget: Budget = LIMITS, user: str = "ada", version: int = 1) -> None:
    async with redis.asyncio.Redis.from_url(url) as client:
        board = BudgetBoard(client, Keys())
        await board.tell_rates(RATES.dump())
        await board.tell([Told("", user, version, budget)])


def recorder(sid: str, url: str, told: list[BudgetNotice], **more: Any) -> CallRecorder:
    given = {"user_id": "ada", "on_budget": told.append, "budget_seconds": QUICK, **more}
    return CallRecorder(sid, redis=url, **given)


def kinds(told: list[BudgetNotice]) -> list[tuple[str, str]]:
    return [(notice.kind, notice.scope) for notice in told]


async def test_a_call_is_watched_from_its_first_word_to_its_archive(bridge: Any, redis_url: str) -> None:
    """End to end: the archive's rates and budget, the worker that publishes them, the recorder, the drain."""
    await set_budget(bridge.bridge.connections, "", "ada", LIMITS, datetime.now(UTC))
    await bridge.bridge.money.refresh(at_once=True)
    told: list[BudgetNotice] = []
    call = recorder("CA1", redis_url, told)
    call.record_metric("llm_prompt_tokens", 700_000, **TOKENS)
    await eventually(lambda: call.spent_cents == 7)
    assert told == []
    call.record_metric("llm_completion_tokens", 100_000, **TOKENS)
    await eventually(lambda: kinds(told) == [("warning", "call")])
    assert not told[0].cutoff
    call.record_cost("tts", amount_cents=4.25)
    await eventually(lambda: len(told) == 2)
    assert told[1] == BudgetNotice("cap", "call", "CA1", Decimal("12.25"), Decimal(10), "USD", cutoff=True)
    live = await user_spend(bridge.redis, "ada", keys=bridge.bridge.keys)
    assert live.calls == {"CA1": Decimal("12.25")}
    assert live.month_cents == Decimal("12.25")
    assert await bridge.bridge.board.live("", "ada") == live.calls
    assert await call.end()
    await bridge.drain()
    assert (await bridge.call("CA1"))["total_cost_cents"] == call.spent_cents == Decimal("12.25")
    after = await user_spend(bridge.redis, "ada", keys=bridge.bridge.keys)
    assert (after.calls, after.month_cents) == ({}, Decimal("12.25"))
    assert not await bridge.redis.exists(bridge.bridge.keys.spend("CA1"))
    assert len(told) == 2


async def test_the_cost_of_a_live_call_is_what_its_archive_will_say(bridge: Any, redis_url: str) -> None:
    await bridge.bridge.money.refresh(at_once=True)
    call = recorder("CA1", redis_url, [])
    for _ in range(3):
        call.record_metric("llm_prompt_tokens", 1234.5678, event_id="same", **TOKENS)
    call.record_metric("llm_completion_tokens", 777, processor="llm")
    call.record_metric("tts_characters", 333, processor="ElevenLabsTTSService", model="flash")
    call.record_metric("llm_ttfb", 5000)
    call.record_metric("llm_prompt_tokens", float("nan"), **TOKENS)
    call.record_metric("llm_prompt_tokens", -5, **TOKENS)
    call.record_cost("stt", usage=3, unit="minutes", provider="deepgram")
    call.record_cost("sms", usage=2, unit_price_cents=0.75)
    call.record_cost("fee", amount_cents=0.1, event_id="f")
    call.record_cost("fee", amount_cents=0.2, event_id="f")
    call.record_cost("fee", amount_cents=99, currency="EUR")
    assert await call.end()
    await bridge.drain()
    total = (await bridge.call("CA1"))["total_cost_cents"]
    assert call.spent_cents == total > 7


async def test_time_costs_too_while_nobody_says_a_word(redis_url: str) -> None:
    await publish(redis_url)
    told: list[BudgetNotice] = []
    began = datetime.now(UTC) - timedelta(minutes=7)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        call = recorder("CA1", redis_url, told, provider="twilio", direction="outbound", answered_at=began)
        call.heartbeat()
        await eventually(lambda: kinds(told) == [("warning", "call")])
        assert told[0].spent_cents >= Decimal("9.1")
        await client.hset("session:CA1", "answered_at", (began - timedelta(minutes=1)).isoformat())
        await eventually(lambda: kinds(told) == [("warning", "call"), ("cap", "call")])
    await call.end()


async def test_two_recorders_of_one_call_add_up_and_say_it_once(redis_url: str) -> None:
    await publish(redis_url)
    told: list[BudgetNotice] = []
    calls = [recorder("CA1", redis_url, told) for _ in range(3)]
    for call in calls:
        call.record_metric("llm_prompt_tokens", 400_000, **TOKENS)
    await eventually(lambda: all(call.spent_cents == 12 for call in calls))
    await eventually(lambda: len(told) == 2)
    assert sorted(kinds(told)) == [("cap", "call"), ("warning", "call")]
    for call in calls:
        await call.end()
    assert len(told) == 2


PROCESS = """
import asyncio, json, sys
from session_bridge.recorder import CallRecorder

async def main(url, number):
    told = []
    calls = [
        CallRecorder(f"CA{number}-{n}", redis=url, user_id="ada", on_budget=told.append, budget_seconds=0.02)
        for n in range(4)
    ]
    for call in calls:
        call.record_message("user", "hi")
        await call.flush(5)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for call in calls:
        call.record_metric("llm_prompt_tokens", 900_000, processor="cerebras")
    await asyncio.to_thread(sys.stdin.readline)
    for call in calls:
        await call.end()
    print(json.dumps([[n.kind, n.scope, n.call_sid] for n in told]), flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def begin(url: str, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, url, str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_months_threshold_is_said_once_over_many_processes_and_its_cap_once_a_call(redis_url: str) -> None:
    await publish(redis_url, Budget(monthly_cents=Decimal(100), warning_threshold=Decimal("0.5")))
    processes = [begin(redis_url, number) for number in range(3)]

    def speak() -> None:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def listen(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    try:
        assert [await asyncio.to_thread(listen, process) for process in processes] == ["ready\n"] * 3
        speak()

        async def all_told() -> bool:
            async with redis.asyncio.Redis.from_url(redis_url) as client:
                names = [name async for name in client.scan_iter("session-bridge:spend:*")]
                return len(names) == 12 and all([await client.hexists(name, "cap") for name in names])

        await eventually(all_told)
        speak()
        said = [json.loads(await asyncio.to_thread(listen, process)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    notices = [notice for one in said for notice in one]
    assert [notice[:2] for notice in notices].count(["warning", "month"]) == 1
    capped = [sid for kind, scope, sid in notices if (kind, scope) == ("cap", "month")]
    assert len(capped) == len(set(capped)) == 12


async def test_what_was_given_comes_before_what_is_published(redis_url: str) -> None:
    await publish(redis_url)
    told: list[BudgetNotice] = []
    call = recorder("CA1", redis_url, told, budget=Budget(call_cap_cents=Decimal(1), currency="EUR"))
    call.record_cost("llm", amount_cents=50)
    call.record_cost("llm", amount_cents=1.5, currency="EUR")
    await eventually(lambda: len(told) == 2)
    assert {(notice.currency, notice.spent_cents, notice.cutoff) for notice in told} == {("EUR", Decimal("1.5"), False)}
    await call.end()


async def test_a_changed_budget_is_followed_in_the_middle_of_a_call(redis_url: str) -> None:
    await publish(redis_url)
    told: list[BudgetNotice] = []
    call = recorder("CA1", redis_url, told)
    call.record_cost("llm", amount_cents=5)
    await eventually(lambda: call.spent_cents == 5)
    await publish(redis_url, Budget(call_cap_cents=Decimal(5)), version=2)
    await eventually(lambda: kinds(told) == [("warning", "call"), ("cap", "call")])
    await call.end()


async def test_a_callback_that_raises_disturbs_nobody(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    await publish(redis_url)

    def fail(notice: BudgetNotice) -> None:
        raise RuntimeError(f"+15550100 has spent {notice.spent_cents}")

    call = recorder("CA1", redis_url, [], on_budget=fail)
    call.record_cost("llm", amount_cents=50)
    await eventually(lambda: len(caplog.records) == 2)
    call.record_cost("llm", amount_cents=1)
    await eventually(lambda: call.spent_cents == 51)
    assert await call.end()
    assert "RuntimeError" in caplog.text
    assert "5550100" not in caplog.text


async def test_while_redis_is_away_a_recorder_says_what_it_knows_and_nobody_says_it_again(
    redis_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await publish(redis_server.url)
    told: list[BudgetNotice] = []
    call = recorder("CA1", redis_server.url, told)
    call.record_cost("llm", amount_cents=1)
    await eventually(lambda: call.spent_cents == 1)
    redis_server.stop()
    call.record_cost("llm", amount_cents=20)
    await eventually(lambda: kinds(told) == [("warning", "call"), ("cap", "call")])
    assert told[1].cutoff
    redis_server.start()
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        claimed: Callable[[], Awaitable[Any]] = lambda: client.hexists(Keys().spend("CA1"), "cap")  # noqa: E731
        await eventually(claimed)
    others: list[BudgetNotice] = []
    other = recorder("CA1", redis_server.url, others)
    other.record_cost("llm", amount_cents=1)
    await eventually(lambda: other.spent_cents == 22)
    assert await other.flush(10)
    await call.end()
    await other.end()
    assert (len(told), others) == (2, [])


async def one_look(redis_url: str) -> None:
    call = recorder("CA1", redis_url, [])
    call.record_cost("llm", amount_cents=1)
    await eventually(lambda: call.spent_cents == 1)


async def test_a_recorder_that_is_let_go_of_watches_no_longer(redis_url: str) -> None:
    await publish(redis_url)
    await one_look(redis_url)
    gc.collect()
    await eventually(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "session-bridge budget"])


async def test_a_recorder_without_a_budget_asks_nothing_of_redis(redis_url: str) -> None:
    async with CallRecorder("CA1", redis=redis_url, user_id="ada") as call:
        call.record_cost("llm", amount_cents=1)
        assert await call.flush(5)
        assert call.spent_cents is None
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert not [name async for name in client.scan_iter("session-bridge:spend:*")]
        assert not [name async for name in client.scan_iter("session-bridge:budget:*")]
