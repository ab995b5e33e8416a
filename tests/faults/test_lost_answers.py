"""A step that Redis has done and whose answer got lost is done again, and nothing is concluded from that."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from session_bridge.live.scripts import Script

HUGE = {"message:huge": json.dumps({"role": "user", "content": "so much " * 300_000})}


@pytest.mark.parametrize(
    ("script", "more"),
    [("release", {}), ("release_fields", HUGE), ("settle", HUGE)],
    ids=["released", "let go field by field", "settled"],
)
def test_the_answer_of_a_release_is_lost(  # noqa: PLR0917  # fixtures, and two parameters
    deployment: Any, proxy_to: Callable[[str], Any], call_fields: Any, until: Any, script: str, more: dict[str, str]
) -> None:
    proxy, through = proxy_to(deployment.redis_url)
    worker = deployment.worker(REDIS_URL=through, LEASE_SECONDS=2)
    answer = proxy.hold(Script.load(script).digest)
    deployment.write("CA1", call_fields("CA1") | more)
    deployment.ask("CA1")
    answer.wait()
    answer.cut_answer()
    until(lambda: deployment.is_gone("CA1"))
    deployment.drain("CA2", call_fields("CA2"))
    for _ in range(2):
        deployment.sweep()
    deployment.drain("CA3", call_fields("CA3"))
    until(lambda: not deployment.redis.exists("session-bridge:ready"))
    assert deployment.state("CA1") == "archived"
    assert deployment.call("CA1")["status"] == "completed"
    assert not worker.said("drain.lost")
    assert not worker.said("drain.not_released")
    worker.stop()
