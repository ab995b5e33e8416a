"""A Redis user that may do what the README says, and one whose channels nobody thought of, as Redis 7 makes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from deployments import Deployment
from session_bridge.recorder import CallRecorder, request_drain

USER = "without-channels"


@pytest.fixture
def channels() -> tuple[str, ...]:
    """The channels that the user may use."""
    return ()


@pytest.fixture
def restricted(deployment: Deployment, channels: tuple[str, ...]) -> Iterator[Deployment]:
    """A deployment whose Redis user may use any key and command, but only these channels."""
    rules = ("reset", "on", ">pw", "~*", "+@all", *(f"&{name}" for name in channels))
    deployment.raw.execute_command("ACL", "SETUSER", USER, *rules)
    url = deployment.redis_url.replace("redis://", f"redis://{USER}:pw@")
    with contextlib.closing(Deployment(url, deployment.database_url)) as opened:
        yield opened
    deployment.raw.execute_command("ACL", "DELUSER", USER)


@pytest.fixture
async def client(restricted: Deployment) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(restricted.redis_url) as opened:
        yield opened


async def test_calls_are_recorded_and_drained_without_the_channel(
    restricted: Deployment, client: Any, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    async with CallRecorder("CA1", redis=restricted.redis_url, spool_dir=spool) as call:
        call.record_message("user", "hello")
    assert not [path for path in spool.rglob("*") if path.is_file()]
    assert restricted.asked("CA1") is not None

    restricted.write("CA2")
    await request_drain(client, "CA2", reason="a command")
    assert restricted.fields("CA2")["finalize_reason"] == "a command"

    worker = restricted.worker()
    restricted.until_archived("CA1", "CA2")
    restricted.write("CA3")
    await request_drain(client, "CA3")
    restricted.until_archived("CA3")
    worker.stop()
    assert restricted.said("CA1") == ["hello"]


async def test_what_redis_refuses_of_a_request_is_told(restricted: Deployment, client: Any) -> None:
    restricted.raw.set("session:CA1", "no hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await request_drain(client, "CA1")


@pytest.mark.parametrize("channels", [(), ("session-bridge:wake",)], ids=["no channel", "its channel"])
def test_doctor_says_what_is_missing(restricted: Deployment, channels: tuple[str, ...]) -> None:
    findings = json.loads(restricted.run("doctor", "--json").stdout)["findings"]
    [found] = [finding for finding in findings if finding["id"] == "redis.commands"]
    assert found["verdict"] == ("ok" if channels else "advice")
    assert ("&session-bridge:wake" in found["do"]) == (not channels)
