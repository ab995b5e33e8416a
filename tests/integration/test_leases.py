from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments import eventually
from session_bridge.drain import loop
from session_bridge.live.snapshot import Claim, Queue, Release, Snapshot


@pytest.mark.parametrize("own", ["short", "x" * (2 << 20)], ids=["whole", "field by field"])
async def test_a_lease_that_is_prolonged_during_the_release_is_still_ours(bridge: Any, own: str) -> None:
    live = bridge.bridge.live
    for number in range(20):
        await bridge.ask(f"CA{number}", {"own": own})
        claims = (await live.claim(Queue.READY, 1, 30)).taken
        snapshots = list(map(Snapshot, claims))
        async with live.reading(snapshots):
            _, outcomes = await asyncio.gather(live.renew(claims, 30), live.release(snapshots))
        assert outcomes == [Release.RELEASED]
        assert await bridge.is_gone(f"CA{number}")


async def test_a_lease_that_is_prolonged_while_it_is_settled_is_still_ours(bridge: Any) -> None:
    live = bridge.bridge.live
    for number in range(20):
        await bridge.ask(f"CA{number}")
        claims = (await live.claim(Queue.READY, 1, 30)).taken
        _, word = await asyncio.gather(live.renew(claims, 30), live.settle(claims[0], "empty"))
        assert word == "settled"


async def test_a_backlog_is_shared_out_in_ever_smaller_batches(bridge: Any) -> None:
    live = bridge.bridge.live
    await bridge.redis.zadd(bridge.bridge.keys.ready, {f"CA{number}": number for number in range(300)})
    sizes, taken, more = [], [], True
    while more:
        claims = await live.claim(Queue.READY, 120, 30)
        sizes.append(len(claims.taken))
        taken += [claim.call_sid for claim in claims.taken]
        more = claims.next_due == 0
    assert sizes == [120, 90, 45, 25, 20], (
        "never more than was asked for, nor half of what is due unless that is little"
    )
    assert taken == [f"CA{number}" for number in range(300)], "those that wait longest come first, and none is left out"


async def test_the_first_batches_of_a_backlog_are_small(bridge_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = (await bridge_with(batch_size=64, concurrency=6)).bridge
    monkeypatch.setattr(loop, "_POLL_SECONDS", 600)  # none of them waits for another
    sizes, go_on = [], asyncio.Event()

    async def held(claims: list[Claim]) -> None:
        sizes.append(len(claims))
        await go_on.wait()

    monkeypatch.setattr(opened.drainer, "drain", held)
    await opened.redis.zadd(opened.keys.ready, {f"CA{number}": number for number in range(1000)})
    running = asyncio.create_task(opened.loop.run())
    await eventually(lambda: len(sizes) == 7)
    assert sizes == [4, 8, 16, 32, 64, 64, 64], "twice as many each time, and never more than a batch may have"
    opened.loop.stop()
    go_on.set()
    await running
    await opened.loop.finish(5)


async def test_what_comes_while_two_small_batches_are_under_way_shares_the_next(
    bridge_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = (await bridge_with(batch_size=400, concurrency=6)).bridge
    monkeypatch.setattr(loop, "_POLL_SECONDS", 600)
    batches: list[tuple[int, asyncio.Event]] = []

    async def held(claims: list[Claim]) -> None:
        batches.append((len(claims), go_on := asyncio.Event()))
        await go_on.wait()

    async def due(*call_sids: str) -> None:
        await opened.redis.zadd(opened.keys.ready, dict.fromkeys(call_sids, 1))
        await opened.redis.publish(opened.keys.wake, 1)

    monkeypatch.setattr(opened.drainer, "drain", held)
    running = asyncio.create_task(opened.loop.run())
    await eventually(lambda: _is_listened_to(opened))
    await due("CA0")
    await eventually(lambda: len(batches) == 1)
    await due("CA1")
    await eventually(lambda: len(batches) == 2)
    await due("CA2")
    await due("CA3")
    await asyncio.sleep(0.2)
    assert [size for size, _ in batches] == [1, 1]
    batches[0][1].set()
    await eventually(lambda: len(batches) == 3)
    assert batches[2][0] == 2
    monkeypatch.setattr(loop, "_POLL_SECONDS", 0.01)
    batches[1][1].set()
    await eventually(lambda: len(opened.loop._batches) == 1)
    await due("CA4")
    await eventually(lambda: len(batches) == 4)
    await due("CA5")
    await eventually(lambda: len(batches) == 5)
    assert len(opened.loop._batches) == 3, "two that last long keep nobody waiting"
    monkeypatch.setattr(loop, "_POLL_SECONDS", 600)
    for number in range(2, 5):
        batches[number][1].set()
    await eventually(lambda: not opened.loop._batches)
    for number in range(3):
        await due(*(f"CA{number}-{place}" for place in range(25)))
        await eventually(lambda: sum(size for size, _ in batches) >= 6 + 25 * (number + 1))  # noqa: B023  # awaited here
    assert len(opened.loop._batches) > 2, "many calls are worth a transaction of their own"
    opened.loop.stop()
    for _, go_on in batches:
        go_on.set()
    await running
    await opened.loop.finish(5)


async def _is_listened_to(opened: Any) -> bool:
    [(_, listeners)] = await opened.redis.pubsub_numsub(opened.keys.wake)
    return bool(listeners)
