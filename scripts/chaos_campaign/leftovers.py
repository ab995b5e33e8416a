"""What a deployment has left when all calls are over: nothing in Redis, nothing dead, and books that balance."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psycopg
from redis.asyncio import Redis

from session_bridge.contract.keys import Keys
from session_bridge.ledger import Ledger, take_ledger
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

_KEYS = Keys()
_WAITING = (_KEYS.ready, _KEYS.checkpoints, _KEYS.opened, _KEYS.in_hand, _KEYS.attempts)
_LOOK_SECONDS = 0.25
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is stuck in Redis, how many sessions died and fields were refused, and the books."""

    stuck: list[str]
    dead: int
    rejects: int
    ledger: Ledger

    def balances(self, calls: int) -> bool:
        """Whether the books balance and say that every one of so many calls is archived."""
        return self.ledger.balances and self.ledger.opened == self.ledger.archived == calls


async def until_quiet(redis_url: str, seconds: float) -> bool:
    """Wait until nothing of any call is left in Redis; False if that takes longer than so many seconds."""
    try:
        async with asyncio.timeout(seconds), Redis.from_url(redis_url) as client:
            while await _stuck(client):  # noqa: ASYNC110  # another process empties it
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        return False
    return True


async def look(redis_url: str, database_url: str) -> Leftovers:
    """What is left now."""
    async with Redis.from_url(redis_url) as client:
        stuck = await _stuck(client)
    async with open_bridge(load_settings(redis_url=redis_url, database_url=database_url)) as bridge:
        ledger = await take_ledger(bridge)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        counts = "SELECT (SELECT count(*) FROM dead_sessions), (SELECT count(*) FROM call_session_rejects)"
        row = await (await connection.execute(counts)).fetchone()
    assert row is not None
    dead, rejects = row
    return Leftovers(stuck[:_SHOWN], dead, rejects, ledger)


async def _stuck(client: Redis) -> list[str]:
    found = [key.decode(errors="replace") async for key in client.scan_iter(f"{_KEYS.prefix}*", count=1000)]
    for key in _WAITING:
        found += [f"{key} is not empty"] * await client.exists(key)
    return found
