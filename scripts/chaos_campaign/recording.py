"""One recording process: plays its share of the calls, and goes when Redis has acknowledged the last word of them.

What it reaches is what a session manager reaches: Redis, through a network that fails. Most calls go through the
recorder; some are written by plain commands, as by a session manager in another language.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import click
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos_campaign.repertoire import draw_call
from chaos_campaign.witness import Witness, WitnessedRecorder, field_text
from session_bridge.contract.fields import FinalizedBy
from session_bridge.contract.ids import now
from session_bridge.contract.keys import Keys
from session_bridge.recorder import request_drain
from session_bridge.simulate import Ending, SimulatedCall, live_fields
from session_bridge.simulate.call import moment_text
from session_bridge.simulate.play import record

_KEYS = Keys()
_TTL_SECONDS = int(os.environ.get("SESSION_BRIDGE_TTL_SECONDS", "3600"))
_LASTS = (2.0, 10.0)
_PLAIN_SHARE, _UNASKED_SHARE, _RESUMED_SHARE, _STRAGGLER_SHARE = 0.2, 0.25, 0.5, 0.2
_PLAIN_FIELDS_AT_ONCE = 5
_LOOK_SECONDS = 0.7
_CLOSING: tuple[str, ...] = ("status", "ended_at", "end_reason")
_PATIENCE = 5.0
_STRAGGLES = (0.0, 3.0)
_PAUSE = 0.3


@dataclass(frozen=True, slots=True)
class Part:
    """One call to be played: when, how long, and the choices that were drawn for it."""

    call: SimulatedCall
    at: float
    lasts: float
    plain: bool
    asked: bool
    """Whether a plain writer asks for the drain, or leaves it to the sweep to find out that the call ended."""
    resumed: bool
    """Whether a call that broke off is taken up again."""
    straggler: float | None
    """How long after the end a last message comes, if one does."""


def draw_parts(seed: str, calls: int, seconds: float, recorded: Path | None) -> list[Part]:
    """The calls of one process, the same for the same seed."""
    random = Random(seed)  # noqa: S311  # to be drawn again, not to be secret
    return [
        Part(
            draw_call(random, recorded),
            at=random.uniform(0, seconds),
            lasts=random.uniform(*_LASTS),
            plain=random.random() < _PLAIN_SHARE,
            asked=random.random() > _UNASKED_SHARE,
            resumed=random.random() < _RESUMED_SHARE,
            straggler=random.uniform(*_STRAGGLES) if random.random() < _STRAGGLER_SHARE else None,
        )
        for _ in range(calls)
    ]


@dataclass(frozen=True, slots=True)
class Player:
    """Plays parts; `client` is for what no recorder writes."""

    client: Redis
    witness: Witness
    since: float
    """Seconds since the first process of this place began."""

    async def play(self, part: Part) -> None:
        """One call from its beginning to its last word, all of it acknowledged when this returns."""
        await asyncio.sleep(max(0.0, part.at - self.since))
        self.witness.note(part.call.call_sid, "begun")
        spoken = timedelta(milliseconds=part.call.duration_ms)
        started_at = now() + timedelta(seconds=part.lasts) - spoken
        if part.plain:
            await self._write_plainly(part, started_at)
        else:
            await self._record(part, started_at)
        if part.straggler is not None:
            await asyncio.sleep(part.straggler)
            message = {"role": "system", "content": "the line was closed", "timestamp": moment_text(now(), 0)}
            await self._write_and_ask(part.call.call_sid, {"message:straggler": field_text(message)})
        self.witness.note(part.call.call_sid, "over")

    async def close(self, call_sid: str) -> None:
        """End a call that an earlier process began: its provider's webhook comes all the same."""
        await self._webhook(call_sid, {"status": "completed", "ended_at": moment_text(now(), 0)})
        self.witness.note(call_sid, "over")

    # -- through the recorder ---------------------------------------------------------------------------------------

    async def _record(self, part: Part, started_at: datetime) -> None:
        call = part.call
        recorder = WitnessedRecorder(
            call.call_sid, self.witness, started_at=started_at.isoformat(timespec="milliseconds"), **call.state
        )
        await self._perform(part, recorder, started_at)
        ended_at = moment_text(started_at, call.duration_ms)
        facts = {**call.late, "status": "completed", "end_reason": call.end_reason, "ended_at": ended_at}
        match call.ending:
            case Ending.WEBHOOK:
                await _acknowledged(recorder)
                await self._webhook(call.call_sid, {name: field_text(value) for name, value in facts.items()})
            case Ending.DISCONNECT:
                await recorder.disconnected(reason="the line broke")
                if part.resumed:
                    again = await WitnessedRecorder(call.call_sid, self.witness, **call.state).resume()
                    again.record_message("user", "Sorry, I was cut off.")
                    await again.end(reason="ended")
                    await _acknowledged(again)
            case _:
                await recorder.end(reason="ended", end_reason=call.end_reason, ended_at=ended_at)
        await _acknowledged(recorder)
        if call.ending is Ending.LATE:
            await asyncio.sleep(part.lasts / 4)
            await self._webhook(call.call_sid, {name: field_text(value) for name, value in call.late.items()})

    async def _perform(self, part: Part, recorder: WitnessedRecorder, started_at: datetime) -> None:
        clock = asyncio.get_running_loop().time
        began, looked = clock(), clock()
        for step in part.call.steps:
            pause = began + part.lasts * step.at_ms / max(1, part.call.duration_ms) - clock()
            if pause > 0:
                await asyncio.sleep(pause)
            record(recorder, step, started_at)
            if clock() - looked > _LOOK_SECONDS:
                # As long as Redis is away this only costs the moment it waits.
                await recorder.acknowledge(_LOOK_SECONDS / 2)
                looked = clock()

    # -- by plain commands ------------------------------------------------------------------------------------------

    async def _write_plainly(self, part: Part, started_at: datetime) -> None:
        sid = part.call.call_sid
        fields = live_fields(part.call, started_at)
        closing = {name: fields.pop(name) for name in _CLOSING if name in fields}
        names = list(fields)
        for start in range(0, len(names), _PLAIN_FIELDS_AT_ONCE):
            piece = {name: fields[name] for name in names[start : start + _PLAIN_FIELDS_AT_ONCE]}
            await self._write(sid, piece)
            await asyncio.sleep(part.lasts * _PLAIN_FIELDS_AT_ONCE / len(names))
        if part.asked or "ended_at" not in closing:
            await self._write_and_ask(sid, closing)
        else:
            await self._write(sid, closing)

    async def _write(self, sid: str, fields: dict[str, str]) -> None:
        async def write() -> None:
            pipeline = self.client.pipeline(transaction=False)
            if fields:
                pipeline.hset(_KEYS.session(sid), mapping=dict(fields))
            pipeline.expire(_KEYS.session(sid), _TTL_SECONDS)
            await pipeline.execute()

        await _insist(write)
        self.witness.acknowledged(sid, fields)

    async def _write_and_ask(self, sid: str, fields: dict[str, str]) -> None:
        await self._write(sid, fields)

        async def ask() -> None:
            await self.client.zadd(_KEYS.ready, {sid: now().timestamp() * 1000 // 1})

        await _insist(ask)

    async def _webhook(self, sid: str, facts: dict[str, str]) -> None:
        async def report() -> None:
            news: dict[str, Any] = {**facts}
            await request_drain(self.client, sid, reason="webhook", by=FinalizedBy.WEBHOOK, keys=_KEYS, **news)

        await _insist(report)
        self.witness.acknowledged(sid, facts)


async def _acknowledged(recorder: WitnessedRecorder) -> None:
    while not await recorder.acknowledge(_PATIENCE):  # noqa: ASYNC110  # what it waits for may take several tries
        # False at once, where the recorder's task has just ended: it begins again with the next entry.
        await asyncio.sleep(_PAUSE)


async def _insist(write: Callable[[], Awaitable[None]]) -> None:
    """Try until Redis acknowledges: what a careful writer does, and a provider whose webhook got a 503."""
    while True:
        try:
            return await write()
        except (RedisError, OSError):
            await asyncio.sleep(_PAUSE)


async def _play_all(parts: list[Part], witness: Witness, since: float) -> None:
    client: Redis = Redis.from_url(os.environ["REDIS_URL"], socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE)
    async with client, asyncio.TaskGroup() as playing:
        player = Player(client, witness, since)
        for call_sid in witness.broken:
            playing.create_task(player.close(call_sid))
        for part in parts:
            if part.call.call_sid not in witness.begun:
                playing.create_task(player.play(part))


@click.command()
@click.option("--seed", required=True)
@click.option("--calls", type=int, required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--since", type=float, default=0.0)
@click.option("--witness", type=click.Path(path_type=Path), required=True)
@click.option("--recorded", type=click.Path(path_type=Path))
def main(*, seed: str, calls: int, seconds: float, since: float, witness: Path, recorded: Path | None) -> None:
    """Play calls, begun within so many seconds, and write down what Redis acknowledges."""
    with Witness(witness) as told:
        asyncio.run(_play_all(draw_parts(seed, calls, seconds, recorded), told, since))


if __name__ == "__main__":
    main()
