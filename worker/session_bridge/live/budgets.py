"""What recorders are told of rates and budgets, and what live calls cost, through Redis."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from session_bridge.contract.budget import CALL, Budget, load_cost
from session_bridge.contract.keys import Keys
from session_bridge.live.scripts import Call, Script, run
from session_bridge.live.sessions import redis_errors

_TELL = Script.load("tell_budget")


@dataclass(frozen=True, slots=True)
class Told:
    """One user's budget, of a version."""

    tenant_id: str
    user_id: str
    version: int
    budget: Budget


class BudgetBoard:
    """Where recorders read rates and budgets. Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def tell_rates(self, rates: str) -> None:
        """Tell recorders of all rates."""
        async with redis_errors():
            await self._redis.set(self._keys.rates, rates)

    async def told_until(self) -> datetime | None:
        """Up to which moment of the archive's clock changes of budgets were told; None if Redis does not know."""
        async with redis_errors():
            text = cast("bytes | None", await self._redis.get(self._keys.budgets))
        return datetime.fromisoformat(text.decode()) if text else None

    async def note_told(self, until: datetime) -> None:
        """Note that all changes up to this moment were told."""
        async with redis_errors():
            await self._redis.set(self._keys.budgets, until.isoformat())

    async def tell(self, budgets: Iterable[Told]) -> None:
        """Tell recorders of budgets; an older version never replaces a newer one."""
        calls = [
            Call(_TELL, [self._keys.budget(told.tenant_id, told.user_id)], [told.version, told.budget.dump()])
            for told in budgets
        ]
        if calls:
            async with redis_errors():
                for reply in await run(self._redis, calls):
                    if isinstance(reply, RedisError):
                        raise reply

    async def forget(self, tenant_id: str, user_id: str) -> None:
        """A user has no budget any more."""
        async with redis_errors():
            await self._redis.delete(self._keys.budget(tenant_id, user_id))

    async def ended(self, calls: Sequence[tuple[str, str, str]]) -> None:
        """These calls (SID, tenant, user) are archived: their cost is in the month's spend now, and no live call's."""
        if not calls:
            return
        async with redis_errors():
            pipeline = self._redis.pipeline(transaction=False)
            for call_sid, tenant_id, user_id in calls:
                pipeline.hdel(self._keys.budget(tenant_id, user_id), f"{CALL}{call_sid}")
                pipeline.delete(self._keys.spend(call_sid))
            await pipeline.execute()

    async def live(self, tenant_id: str, user_id: str) -> dict[str, Decimal]:
        """What each live call of a user costs by now, as far as a recorder watches it, by call SID."""
        async with redis_errors():
            fields = cast(
                "dict[bytes, bytes]",
                await self._redis.hgetall(self._keys.budget(tenant_id, user_id)),  # type: ignore[misc]  # typed for both kinds of client
            )
        now = int(time.time())
        return {
            name.decode("utf-8", "surrogateescape").removeprefix(CALL): load_cost(value.decode(), now)
            for name, value in fields.items()
            if name.startswith(CALL.encode())
        }
