"""What Redis' absence kept a worker from ending is ended when it is back, by whichever batch comes first."""

from __future__ import annotations

import asyncio
from typing import Any

from session_bridge.live.snapshot import Queue


async def test_two_batches_pay_the_debts_of_a_third(bridge: Any) -> None:
    live, drainer, ready = bridge.bridge.live, bridge.bridge.drainer, bridge.bridge.keys.ready
    for number in range(5):
        await bridge.ask(f"CA{number}", provider="twilio")
    drainer._owed += (await live.claim(Queue.READY, 10, 30)).taken
    assert len(drainer._owed) == 5
    await asyncio.gather(drainer.drain([]), drainer.drain([]))
    assert not drainer._owed
    scores = [score for _, score in await bridge.redis.zrange(ready, 0, -1, withscores=True)]
    assert len(scores) == 5
    assert all(score.is_integer() for score in scores), "a claim was not given back"
