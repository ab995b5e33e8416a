"""Notices that another server answers in Redis' place, and says which writes may be missing there.

Recorders send again what they wrote last. Whoever writes with plain commands cannot, and what Redis had acknowledged
to them but not handed on to the replica that took over is gone. It cannot be brought back, but it is not hidden: how
far the replica was is in its own INFO, and when the old server was there is what a worker saw each second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from session_bridge.contract.ids import now
from session_bridge.contract.keys import Keys
from session_bridge.errors import RedisUnavailableError
from session_bridge.live.sessions import redis_errors

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_LOOKS_KEPT = 3600
_ADVICE = "recorders write theirs again; compare what plain writers wrote in this time with their own records"


@dataclass(frozen=True, slots=True)
class Loss:
    """Writes acknowledged from `since` until `until` may be missing, of which `bytes` were surely not handed on.

    `bytes` counts the replication's stream and only what had come when the old server was last seen: more may have
    come after.
    """

    since: datetime
    until: datetime
    bytes: int

    @property
    def seconds(self) -> float:
        """How long that was."""
        return round((self.until - self.since) / timedelta(seconds=1), 1)


@dataclass(slots=True)
class Failovers:
    """Looks at the server each second, for as long as `watch` runs."""

    redis: Redis
    keys: Keys
    failovers: int = 0
    latest: Loss | None = None
    _run_id: object = None
    _replication_id: object = None
    _seen: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS_KEPT))

    async def watch(self) -> None:
        """Look, and look again, until cancelled; a server that is away is waited for."""
        while True:
            with contextlib.suppress(RedisUnavailableError):
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Look once. A user that may not ask for INFO sees nothing."""
        async with redis_errors():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.info("server")
            pipeline.info("replication")
            server, replication = await pipeline.execute(raise_on_error=False)
        if isinstance(server, ResponseError) or isinstance(replication, ResponseError):
            return
        for answer in (server, replication):
            if isinstance(answer, Exception):
                raise RedisUnavailableError("Redis does not say how its replication stands") from answer
        await self._compare(cast("dict[str, object]", {**server, **replication}), now())

    async def _compare(self, info: dict[str, object], moment: datetime) -> None:
        if info.get("role") != "master":
            return
        if self._seen and info.get("run_id") != self._run_id:
            if info.get("master_replid2") == self._replication_id:
                await self._failed_over(int(cast("int", info.get("second_repl_offset", 0))) - 1, moment)
            else:
                log.warning("redis.restarted", advice="without AOF its last writes are gone: session-bridge doctor")
            self._seen.clear()
        self._run_id, self._replication_id = info.get("run_id"), info.get("master_replid")
        self._seen.append((moment, int(cast("int", info.get("master_repl_offset", 0)))))

    async def _failed_over(self, shared: int, moment: datetime) -> None:
        """The new server had the old one's stream up to the offset `shared`."""
        first, last = self._seen[0][0], self._seen[-1][1]
        since = max((at for at, offset in self._seen if offset <= shared), default=first)
        loss = self.latest = Loss(since, moment, max(0, last - shared))
        self.failovers += 1
        log.error(
            "redis.failover",
            possible_loss_since=loss.since.isoformat(),
            possible_loss_seconds=loss.seconds,
            lost_bytes_at_least=loss.bytes,
            advice=_ADVICE,
        )
        facts = {"since": loss.since.isoformat(), "until": loss.until.isoformat(), "bytes": loss.bytes}
        async with redis_errors():
            pairs = [part for fact in facts.items() for part in fact]
            await self.redis.execute_command("HSET", self.keys.failover, *pairs)


async def recall_loss(redis: Redis, keys: Keys) -> Loss | None:
    """What a worker noted of the last failover, if there was one."""
    async with redis_errors():
        found = cast("dict[bytes, bytes]", await redis.execute_command("HGETALL", keys.failover))
    facts = {name.decode(): text.decode() for name, text in found.items()}
    if not facts.keys() >= {"since", "until", "bytes"}:
        return None
    since, until = (datetime.fromisoformat(facts[name]).astimezone(UTC) for name in ("since", "until"))
    return Loss(since, until, int(facts["bytes"]))
