"""What the README shows is run as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def block(language: str, word: str) -> str:
    [found] = [text for kind, text in BLOCKS if kind == language and word in text]
    return str(found)


def fields(client: redis.Redis, call_sid: str) -> dict[str, str]:
    found: Any = client.hgetall(f"session:{call_sid}")
    return {name.decode(): value.decode() for name, value in found.items()}


def wait_for(seen: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_the_recorder_example_records_a_call_and_asks_for_its_drain(redis_url: str) -> None:
    code = block("python", "async with CallRecorder").replace("redis://localhost:6379/0", redis_url)
    body = "\n".join(f"    {line}" for line in code.splitlines() if not line.startswith("from"))
    scope: dict[str, Any] = {}
    exec(f"from session_bridge.recorder import CallRecorder\nasync def example():\n{body}\n", scope)
    await scope["example"]()
    with redis.Redis.from_url(redis_url) as client:
        session = fields(client, "CA0123")
        assert client.zscore("session-bridge:ready", "CA0123") is not None
    said = [json.loads(value)["content"] for name, value in sorted(session.items()) if name.startswith("message:")]
    assert said == ["Good evening, how can I help?", "A table for two, please."]
    assert session["conversation_stage"] == "confirmed"
    assert session["status"] == "completed"


def test_the_fastapi_example_hears_a_status_webhook_and_a_media_stream(redis_url: str) -> None:
    code = block("python", "@app.websocket").replace("redis://localhost:6379/0", redis_url)
    scope: dict[str, Any] = {}
    exec(code, scope)
    with TestClient(scope["app"]) as http, redis.Redis.from_url(redis_url) as client:
        assert http.post("/status", data={"CallSid": "CA1", "CallStatus": "ringing"}).status_code == 200
        assert client.zscore("session-bridge:ready", "CA1") is None
        assert http.post("/status", data={"CallSid": "CA1", "CallStatus": "completed"}).status_code == 200
        assert client.zscore("session-bridge:ready", "CA1") is not None
        assert fields(client, "CA1")["status_by"] == "twilio"
        with http.websocket_connect("/media/CA2") as stream:
            stream.send_text("hello")
        wait_for(lambda: client.zscore("session-bridge:ready", "CA2") is not None)
        assert any("hello" in value for value in fields(client, "CA2").values())


async def test_the_budget_example_takes_a_call_cuts_it_off_and_takes_no_other(bridge: Any, redis_url: str) -> None:
    from session_bridge.archive.budgets import set_budget
    from session_bridge.contract.budget import Budget
    from session_bridge.contract.ids import now

    budget = Budget(monthly_cents=Decimal(20), call_cap_cents=Decimal(10), auto_cutoff=True)
    await set_budget(bridge.bridge.connections, "", "ada", budget, now())
    await bridge.bridge.money.refresh(at_once=True)
    scope: dict[str, Any] = {}
    exec(block("python", "on_budget=on_budget"), scope)
    hung_up = asyncio.Event()
    call = await scope["take_call"]("CA1", bridge.redis, hung_up.set)
    call.record_metric("llm_completion_tokens", 3_000_000, processor="cerebras")
    await asyncio.wait_for(hung_up.wait(), 20)
    await call.end()
    hung_up.clear()
    assert await scope["take_call"]("CA2", bridge.redis, hung_up.set) is None
    assert hung_up.is_set()


def test_the_fastapi_example_answers_503_when_redis_is_away() -> None:
    code = block("python", "@app.websocket").replace("redis://localhost:6379/0", "redis://127.0.0.1:1/0")
    scope: dict[str, Any] = {}
    exec(code, scope)
    with TestClient(scope["app"]) as http:
        answer = http.post("/status", data={"CallSid": "CA1", "CallStatus": "completed"})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"


def test_the_mounted_webhooks_hear_a_call(redis_url: str) -> None:
    from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

    code = block("python", "app.mount(").replace("redis://localhost:6379/0", redis_url)
    scope: dict[str, Any] = {}
    exec(code, scope)
    form = {"CallSid": "CA1", "CallStatus": "completed"}
    url = "https://calls.example.com/webhooks/twilio"
    signature = RequestValidator("auth token").compute_signature(url, form)
    with TestClient(scope["app"]) as http, redis.Redis.from_url(redis_url) as client:
        assert http.post("/webhooks/twilio", data=form).status_code == 403
        assert not client.keys()
        heard = http.post("/webhooks/twilio", data=form, headers={"X-Twilio-Signature": signature})
        assert heard.status_code == 200
        assert client.zscore("session-bridge:ready", "CA1") is not None


def test_the_example_of_standard_webhooks_is_understood() -> None:
    from session_bridge.webhooks.standard import understand

    [news] = understand(json.loads(block("json", "call.ended")))
    assert (news.call_sid, news.ended, news.fields["provider"]) == ("c-17", True, "telnyx")
    assert json.loads(news.fields["message:1"])["content"] == "A table for two, please."


def test_the_plain_commands_of_any_language_are_what_the_bridge_understands(redis_url: str) -> None:
    commands = block("text", "HSET session:CA0123 provider")
    with redis.Redis.from_url(redis_url) as client:
        for line in commands.splitlines():
            words = [quoted or plain for quoted, plain in re.findall(r"'([^']*)'|(\S+)", line)]
            client.execute_command(*words)
        session = fields(client, "CA0123")
        assert client.ttl("session:CA0123") > 3000
    from session_bridge.drain.understand import Understanding

    call = Understanding().call("CA0123", {k.encode(): v.encode() for k, v in session.items()}, {})
    assert not call.rejects
    assert not call.extra
    assert {family.value: len(events) for family, events in call.events.items()} == {"message": 1, "metric": 1}


def test_every_setting_the_readme_names_is_one() -> None:
    from session_bridge.settings import Settings, environment_name

    known = {environment_name(name) for name in Settings.model_fields}
    named = set(re.findall(r"SESSION_BRIDGE_[A-Z_]+", README))
    assert named <= known | {"SESSION_BRIDGE_SHARED"}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", README))))
def test_every_file_the_readme_links_to_is_there(link: str) -> None:
    assert (Path(__file__).resolve().parent.parent.parent / link).exists()
