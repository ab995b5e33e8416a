"""What is let go, and what stays, whatever happened between the reading of live sessions and their release."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from session_bridge.live.snapshot import Queue, Release, Snapshot

SIDS = ["CA1", "CA2", "CA3"]


async def claimed(opened: Any) -> list[Snapshot]:
    for sid in SIDS:
        await opened.ask(sid, {"own": f"of {sid}", "more": "x" * 100})
    return [Snapshot(claim) for claim in (await opened.bridge.live.claim(Queue.READY, 10, 30)).taken]


async def commands(opened: Any) -> dict[str, int]:
    """How often each command was called."""
    return {name[8:]: told["calls"] for name, told in (await opened.redis.info("commandstats")).items()}


async def test_what_nobody_touched_is_let_go_without_a_second_look(bridge: Any) -> None:
    for _ in range(2):  # the first time the server learns the script
        snapshots = await claimed(bridge)
        await bridge.redis.config_resetstat()
        async with bridge.bridge.live.reading(snapshots):
            assert await bridge.bridge.live.release(snapshots) == [Release.RELEASED] * 3
    assert (await commands(bridge))["hgetall"] == len(SIDS)
    assert all([await bridge.is_gone(sid) for sid in SIDS])


async def change(opened: Any) -> None:
    await opened.redis.hset(opened.key("CA2"), "own", "of somebody else")


async def add(opened: Any) -> None:
    await opened.redis.hset(opened.key("CA2"), "new", "comes late")


async def replace(opened: Any) -> None:
    await opened.redis.delete(opened.key("CA2"))
    await opened.redis.hset(opened.key("CA2"), "new", "comes late")


WRITES = {"change": change, "add": add, "replace": replace}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_what_was_touched_stays_and_what_lies_beside_it_goes(
    bridge: Any, write: Callable[[Any], Awaitable[None]]
) -> None:
    live = bridge.bridge.live
    snapshots = await claimed(bridge)
    async with live.reading(snapshots):
        await write(bridge)
        outcomes = dict(zip(SIDS, await live.release(snapshots), strict=True))
    assert outcomes == {"CA1": Release.RELEASED, "CA2": Release.LEFT, "CA3": Release.RELEASED}
    left = await bridge.redis.hgetall(bridge.key("CA2"))
    assert set(left) in ({b"own"}, {b"new"})
    assert await bridge.redis.zscore(bridge.bridge.keys.ready, "CA2") is not None


async def test_each_part_of_a_batch_is_let_go_by_itself(bridge: Any) -> None:
    live = bridge.bridge.live
    snapshots = await claimed(bridge)
    async with live.reading(snapshots):
        assert await live.release(snapshots[:1]) == [Release.RELEASED]
        await change(bridge)
        assert await live.release(snapshots[1:]) == [Release.LEFT, Release.RELEASED]


async def test_a_touch_that_changes_nothing_keeps_nothing(bridge: Any) -> None:
    live = bridge.bridge.live
    snapshots = await claimed(bridge)
    async with live.reading(snapshots):
        await bridge.redis.hset(bridge.key("CA2"), "own", "of CA2")
        assert await live.release(snapshots) == [Release.RELEASED] * 3


async def lose_connections(opened: Any) -> None:
    ours = await opened.redis.client_id()
    for client in await opened.redis.client_list(_type="normal"):
        if int(client["id"]) != ours:
            await opened.redis.client_kill_filter(_id=client["id"])


async def forget_scripts(opened: Any) -> None:
    await opened.redis.script_flush()


MISHAPS = {"connections": lose_connections, "scripts": forget_scripts}


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("mishap", MISHAPS.values(), ids=MISHAPS)
async def test_a_release_outlives_what_its_server_forgets(
    bridge: Any, mishap: Callable[[Any], Awaitable[None]], touched: bool
) -> None:
    live = bridge.bridge.live
    snapshots = await claimed(bridge)
    async with live.reading(snapshots):
        if touched:
            await change(bridge)
        await mishap(bridge)
        outcomes = await live.release(snapshots)
    assert outcomes == [Release.RELEASED, Release.LEFT if touched else Release.RELEASED, Release.RELEASED]


@pytest.mark.parametrize("refused", ["watch", "multi"])
async def test_a_server_that_watches_nothing_is_served_all_the_same(
    bridge: Any, bridge_with: Callable[..., Awaitable[Any]], redis_url: str, refused: str
) -> None:
    await bridge.redis.acl_setuser(
        "plain", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    await bridge.redis.execute_command("ACL", "SETUSER", "plain", f"-{refused}")
    opened = await bridge_with(redis_url=redis_url.replace("redis://", "redis://plain:secret@"))
    live = opened.bridge.live
    snapshots = await claimed(opened)
    async with live.reading(snapshots):
        await change(opened)
        assert await live.release(snapshots) == [Release.RELEASED, Release.LEFT, Release.RELEASED]


async def test_a_reading_that_lets_nothing_go_leaves_no_watch_behind(bridge: Any) -> None:
    live = bridge.bridge.live
    for _ in range(3):
        snapshots = await claimed(bridge)
        async with live.reading(snapshots):
            pass
        await bridge.redis.delete(bridge.bridge.keys.ready)
    watching = [int(client.get("watch", 0)) for client in await bridge.redis.client_list()]
    assert not any(watching)
