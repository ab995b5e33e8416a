"""Plays a simulated call through the recorder, as a session manager would, only faster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from session_bridge.contract.fields import Family, FinalizedBy
from session_bridge.contract.ids import now
from session_bridge.contract.keys import Keys
from session_bridge.recorder import CallRecorder, request_drain
from session_bridge.simulate.call import Change, Ending, Event, SimulatedCall, moment_text

DEFAULT_SPEED = 50.0
"""A call of one minute takes little more than a second."""
GRACE_SECONDS = 0.5
"""How long a call that broke off waits for its return: hardly, for here nobody comes back."""
_FLUSH_SECONDS = 10.0

_RECORD: Mapping[Family, Callable[..., object]] = {
    Family.MESSAGE: CallRecorder.record_message,
    Family.TRANSITION: CallRecorder.record_transition,
    Family.METRIC: CallRecorder.record_metric,
    Family.RAG: CallRecorder.record_rag_retrieval,
    Family.EXTRACTION: CallRecorder.record_variable_extraction,
    Family.INTERRUPTION: CallRecorder.record_user_interruption,
    Family.TOOL: CallRecorder.record_tool_call,
    Family.PARTICIPANT: CallRecorder.record_participant,
    Family.COST: CallRecorder.record_cost,
    Family.RECORDING: CallRecorder.update_recording_info,
}


class _LineBrokeError(Exception):
    """What a session manager gets from its websocket when the caller drives into a tunnel."""


async def play(call: SimulatedCall, redis: Redis, keys: Keys, *, speed: float = DEFAULT_SPEED) -> float:
    """Record the call from its beginning to its end, `speed` times as fast as it was spoken.

    Its times are those of a call that ends when the playing does. Returns the moment, by the clock of the event loop,
    at which its drain was asked for; where a grace goes before it, the moment at which that is over.
    """
    clock = asyncio.get_running_loop().time
    lasts = call.duration_ms / 1000
    started_at = now() + timedelta(seconds=lasts / speed - lasts)
    state: dict[str, Any] = {**call.state, "started_at": started_at}
    recorder = CallRecorder(call.call_sid, redis=redis, keys=keys, grace_seconds=GRACE_SECONDS, **state)
    if call.ending is Ending.WEBHOOK:
        await _perform(call, recorder, started_at, speed)
        await recorder.flush(_FLUSH_SECONDS)
        asked = clock()
        await _report_end(call, redis, keys, started_at)
        return asked
    asked = clock()
    try:
        async with recorder:
            await _perform(call, recorder, started_at, speed)
            asked = clock()
            _hang_up(call, recorder, started_at)
    except _LineBrokeError:
        asked += GRACE_SECONDS
    return asked


async def send_late(call: SimulatedCall, redis: Redis, keys: Keys) -> float:
    """Say what becomes known of the call after its end, as a provider's callback would; returns when, as `play`."""
    asked = asyncio.get_running_loop().time()
    facts: dict[str, Any] = {**call.late}
    await request_drain(redis, call.call_sid, reason="recording ready", by=FinalizedBy.WEBHOOK, keys=keys, **facts)
    return asked


async def _perform(call: SimulatedCall, recorder: CallRecorder, started_at: datetime, speed: float) -> None:
    clock = asyncio.get_running_loop().time
    began = clock()
    for step in call.steps:
        pause = began + step.at_ms / 1000 / speed - clock()
        if pause > 0:
            await asyncio.sleep(pause)
        record(recorder, step, started_at)
    await asyncio.sleep(max(0.0, began + call.duration_ms / 1000 / speed - clock()))


def record(recorder: CallRecorder, step: Event | Change, started_at: datetime) -> None:
    """Record one step of a call that began at `started_at`."""
    if isinstance(step, Change):
        recorder.set(**step.fields)
        return
    fields = step.fields(started_at)
    if step.event_id is not None and step.family is not Family.RECORDING:
        fields["event_id"] = step.event_id
    _RECORD[step.family](recorder, **fields)


def _hang_up(call: SimulatedCall, recorder: CallRecorder, started_at: datetime) -> None:
    if call.ending is Ending.DISCONNECT:
        raise _LineBrokeError
    recorder.update_status("completed", end_reason=call.end_reason, ended_at=_end(call, started_at))


async def _report_end(call: SimulatedCall, redis: Redis, keys: Keys, started_at: datetime) -> None:
    ended_at = _end(call, started_at)
    facts: dict[str, Any] = {**call.late, "status": "completed", "end_reason": call.end_reason, "ended_at": ended_at}
    await request_drain(redis, call.call_sid, reason="status webhook", by=FinalizedBy.WEBHOOK, keys=keys, **facts)


def _end(call: SimulatedCall, started_at: datetime) -> str:
    return moment_text(started_at, call.duration_ms)
