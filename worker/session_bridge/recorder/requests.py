"""Asking for a drain, and taking the request back: what a webhook, a websocket's end or a script calls."""

from __future__ import annotations

from redis.asyncio import Redis

from session_bridge.contract.fields import FinalizedBy
from session_bridge.contract.keys import Keys, check_call_sid
from session_bridge.recorder.config import keys_or_default
from session_bridge.recorder.moments import MOMENTS
from session_bridge.recorder.snapshot import state_bytes


async def request_drain(
    redis: Redis,
    call_sid: str,
    *,
    reason: str | None = None,
    by: FinalizedBy = FinalizedBy.COMMAND,
    grace: float = 0.0,
    keys: Keys | None = None,
    **facts: object,
) -> None:
    """Say that a call is over in `grace` seconds, hold its hash until it is drained, and wake the workers.

    `facts` are state or document fields that come with the news (`status="completed"`, `recording_url=…`); those that
    are None are left out. An earlier request stays; a later one, or a worker's lease, gives way. One round trip.

    Raises redis-py's error if Redis cannot be reached or refuses: answer 503, so that the provider asks again.
    """
    keys = keys_or_default(keys)
    session = keys.session(check_call_sid(call_sid))
    known = {"finalize_reason": reason, "finalized_by": FinalizedBy(by).value, **facts}
    due_ms = MOMENTS.milliseconds() + round(grace * 1000)
    pipe = redis.pipeline(transaction=False)
    pipe.hset(session, mapping={name: state_bytes(value) for name, value in known.items() if value is not None})
    pipe.persist(session)
    pipe.zadd(keys.ready, {call_sid: due_ms}, lt=True)
    pipe.publish(keys.wake, due_ms)
    # Whether workers hear of it at once is no part of the request: not every user may use the channel.
    *answers, _ = await pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


async def withdraw_drain(redis: Redis, call_sid: str, *, keys: Keys | None = None) -> bool:
    """Take a request back: the call goes on. True if there was one.

    A drain that already runs becomes a checkpoint, unless it has released the call by then. The hash stays on hold
    until somebody writes it again. Raises redis-py's error if Redis cannot be reached.
    """
    keys = keys_or_default(keys)
    return bool(await redis.zrem(keys.ready, check_call_sid(call_sid)))
