"""The recorder: what it costs the caller's event loop, and how it speaks to Redis."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any, ClassVar

from redis.asyncio import Connection, ConnectionPool, Redis

from benchmark.contender import stopwatch
from benchmark.lab import Lab
from benchmark.plan import Plan, Steps
from benchmark.report import Result, Sheet, quantile
from session_bridge.recorder import CallRecorder

_BATCH = 100
_BURSTS = (1, 10, 100, 1000)
_LIVE_CALLS = 1000
_EVENTS_PER_CALL = 10
_TICK_SECONDS = 0.005
_LAG_SECONDS = 0.01
_CONTENT = (
    "Yes, please: a table for four on Friday evening at eight, if there is one by the window, and one high chair."
)


class CountingConnection(Connection):
    """Counts what is sent: one flight of commands is one round trip, however many they are."""

    flights: ClassVar[int] = 0
    bytes_sent: ClassVar[int] = 0

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002  # as it is inherited
        """Send, and count."""
        pieces: list[Any] = [command] if isinstance(command, bytes | str) else list(command)
        CountingConnection.flights += 1
        CountingConnection.bytes_sent += sum(map(len, pieces))
        await super().send_packed_command(pieces, check_health)


@dataclass(slots=True)
class Stream:
    """What a process did that recorded for some seconds."""

    events: int
    seconds: float
    cpu_seconds: float
    flights: int
    lags: list[float]

    @property
    def share(self) -> float:
        """Of one processor."""
        return self.cpu_seconds / self.seconds


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Cost of a record, round trips of a flush, and a thousand live calls in one process."""
    steps.expect(4)
    lab.empty()
    gc.collect()
    gc.freeze()  # what the benchmark itself holds is not the recorder's to look through
    with tempfile.TemporaryDirectory() as spool:
        steps.begin("recorder: one record")
        record, dumps = asyncio.run(_cost(lab, spool, plan.pick(100, 500)))
        steps.done()
        steps.begin("recorder: round trips")
        flights = asyncio.run(_round_trips(lab, spool))
        steps.done()
        seconds = plan.pick(1, 15)
        steps.begin("recorder: the source of events alone")
        idle = asyncio.run(_stream(lab, spool, seconds, recording=False))
        steps.done()
        steps.begin(f"recorder: {_LIVE_CALLS:,} live calls")
        busy = asyncio.run(_stream(lab, spool, seconds, recording=True))
        steps.done()
    gc.unfreeze()
    return _result(record, dumps, flights, idle, busy)


def _client(lab: Lab) -> Redis:
    pool = ConnectionPool.from_url(lab.redis_url, connection_class=CountingConnection)
    return Redis.from_pool(pool)


def _message(turn: int) -> dict[str, Any]:
    return {
        "role": "user",
        "content": _CONTENT,
        "turn_number": turn,
        "start_ms": turn * 9000.0,
        "end_ms": turn * 9000.0 + 3250.5,
        "confidence": 0.9375,
        "node_id": "ask_party",
        "speaker": "caller",
    }


async def _cost(lab: Lab, spool: str, batches: int) -> tuple[list[float], list[float]]:
    """Seconds of one record, and of one `json.dumps` of the same dict: a figure for each batch, in turns."""
    redis = _client(lab)
    records: list[float] = []
    dumps: list[float] = []
    async with redis, CallRecorder("CA-cost", redis=redis, spool_dir=spool) as call:
        for batch in range(batches):
            messages = [_message(turn) for turn in range(batch * _BATCH, (batch + 1) * _BATCH)]
            with stopwatch() as watch:
                for message in messages:
                    call.record_message(**message)
            records.append(watch.seconds / _BATCH)
            # The event has the time besides, which the recorder adds.
            events = [{"timestamp": "2026-11-21T10:00:00.123456+00:00"} | message for message in messages]
            with stopwatch() as watch:
                for event in events:
                    json.dumps(event)
            dumps.append(watch.seconds / _BATCH)
            await call.flush()
    return records, dumps


async def _round_trips(lab: Lab, spool: str) -> dict[int, int]:
    """Flights to Redis of one flush, by how many events it carries."""
    redis = _client(lab)
    flights = {}
    async with redis, CallRecorder("CA-flights", redis=redis, spool_dir=spool, heartbeat_seconds=3600) as call:
        call.record_message("user", _CONTENT)
        await call.flush()
        for burst in _BURSTS:
            before = CountingConnection.flights
            for turn in range(burst):
                call.record_message(**_message(turn))
            await call.flush()
            flights[burst] = CountingConnection.flights - before
    return flights


async def _stream(lab: Lab, spool: str, seconds: float, *, recording: bool) -> Stream:
    """Ten events a second of each of a thousand calls, evenly; without `recording`, all but the records themselves."""
    redis = _client(lab)
    lags: list[float] = []
    async with redis:
        names = [f"CA-live-{number}" for number in range(_LIVE_CALLS if recording else 1)]
        calls = [CallRecorder(name, redis=redis, spool_dir=spool) for name in names]
        for call in calls:
            call.heartbeat()
        await calls[0].flush()
        watching = asyncio.create_task(_watch_lag(lags))
        turns = cycle(calls)
        message = _message(1)
        sent, flights = 0, CountingConnection.flights
        with stopwatch() as watch:
            began = time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds:
                for _ in range(int(passed * _LIVE_CALLS * _EVENTS_PER_CALL) - sent):
                    sent += 1
                    if recording:
                        next(turns).record_message(**message)
                await asyncio.sleep(_TICK_SECONDS)
        flights = CountingConnection.flights - flights
        watching.cancel()
        if not await calls[0].flush(30):
            raise TimeoutError("what was recorded did not reach Redis within 30 s")
        await asyncio.gather(*[call.end() for call in calls])
    return Stream(sent, watch.seconds, watch.cpu_seconds, flights, lags)


async def _watch_lag(lags: list[float]) -> None:
    """How much later than asked for the event loop comes back."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(_LAG_SECONDS)
        lags.append(time.perf_counter() - asked - _LAG_SECONDS)


def _result(record: list[float], dumps: list[float], flights: dict[int, int], idle: Stream, busy: Stream) -> Result:
    cost, plain = median(record) * 1e6, median(dumps) * 1e6
    # All that the recorder does, also its flushes: they run in the caller's loop as well.
    whole = (busy.cpu_seconds - idle.cpu_seconds) / busy.events * 1e6
    lag = quantile(busy.lags, 0.5) * 1000, quantile(busy.lags, 0.99) * 1000, max(busy.lags) * 1000
    figures = {
        "record_us": cost,
        "json_dumps_us": plain,
        "record_of_json_dumps": cost / plain,
        "record_and_flush_us": whole,
        "round_trips_by_events": flights,
        "live": {
            "calls": _LIVE_CALLS,
            "events_per_second": busy.events / busy.seconds,
            "cpu_share": busy.share,
            "cpu_share_of_the_source": idle.share,
            "round_trips_per_second": busy.flights / busy.seconds,
            "lag_ms": {"median": lag[0], "p99": lag[1], "max": lag[2]},
            "lag_ms_of_the_source": {"p99": quantile(idle.lags, 0.99) * 1000, "max": max(idle.lags) * 1000},
        },
    }
    sheet = Sheet("The recorder", ("", ""))
    sheet.lines = [
        ("record_message, on the caller's loop", f"{cost:.1f} µs"),
        ("json.dumps of the same dict", f"{plain:.1f} µs"),
        ("record and flush together, CPU an event", f"{whole:.1f} µs"),
        *[(f"round trips of a flush of {events:,}", str(count)) for events, count in flights.items()],
        (f"{_LIVE_CALLS:,} live calls, events a second", f"{busy.events / busy.seconds:,.0f}"),
        ("of one processor, source and recorder", f"{busy.share:.0%}"),
        ("of one processor, the source alone", f"{idle.share:.0%}"),
        ("round trips a second", f"{busy.flights / busy.seconds:.0f}"),
        ("the loop comes back late by, median / p99 / most", f"{lag[0]:.1f} / {lag[1]:.1f} / {lag[2]:.1f} ms"),
    ]
    headline = {"recorder_us": cost, "recorder_of_json_dumps": cost / plain}
    return Result(headline, figures, [sheet])
