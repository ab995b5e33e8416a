"""The one module that knows arq: the worker process, its jobs and its clock.

arq wakes and keeps time; what there is to drain is told by the ready set alone. The drains run in the worker's own
loop beside arq's, so that neither arq's poll nor an arq job that is refused, dropped or blocked can delay one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import signal
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any, TypeAlias

import structlog
from arq import ArqRedis, Worker, cron, func
from arq import Retry as TryAgain
from arq.cron import CronJob
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from session_bridge.archive.partitions import ensure_partitions
from session_bridge.contract.fields import FinalizedBy
from session_bridge.errors import ArchiveUnavailableError, BridgeError, RedisUnavailableError, TransactionTimeoutError
from session_bridge.health import serve_health
from session_bridge.live.sessions import redis_errors
from session_bridge.recorder import request_drain
from session_bridge.recorder.address import pool_of
from session_bridge.service import Bridge
from session_bridge.tasks import end_tasks
from session_bridge.upkeep.embed import Embedder, embedder_of
from session_bridge.upkeep.loop import keep_up
from session_bridge.upkeep.retention import retire

log = structlog.get_logger(__name__)

Context: TypeAlias = dict[str, Any]

_JOB_SECONDS = 60
# arq forgets a job after a day; until then a request is tried again about so often.
_REQUEST_TRIES = 3000
_LONGEST_DEFER_SECONDS = 30
_RESTART_SECONDS = 5.0
_POLL_SECONDS = 0.5
_MINUTE = 60
_STUCK_SECONDS = 10.0
_GC_THRESHOLD = (200_000, 50, 100)


async def finalize_session(
    context: Context, call_sid: str, reason: str | None = None, by: str = FinalizedBy.COMMAND, grace: float = 0.0
) -> None:
    """The arq function for applications: ask for the drain of a call, `grace` seconds from now.

    While the Redis of the sessions is away the job waits in the queue, which may be in another.
    """
    bridge: Bridge = context["bridge"]
    try:
        async with redis_errors():
            await request_drain(
                bridge.redis, call_sid, reason=reason, by=FinalizedBy(by), grace=grace, keys=bridge.keys
            )
    except RedisUnavailableError as error:
        log.warning("request.waiting", call_sid=call_sid, reason=str(error))
        raise TryAgain(defer=min(_LONGEST_DEFER_SECONDS, context["job_try"])) from error


async def sweep(context: Context) -> None:
    """The cron job that sweeps a part of the keys."""
    bridge: Bridge = context["bridge"]
    try:
        await bridge.sweeper.sweep(limit=bridge.settings.sweep_limit, keys=bridge.settings.sweep_keys)
    except RedisUnavailableError as error:
        log.warning("sweep.waiting", reason=str(error))


async def make_partitions(context: Context) -> None:
    """The cron job that makes the archive's coming months."""
    bridge: Bridge = context["bridge"]
    try:
        async with bridge.connections.plain() as connection:
            made = await ensure_partitions(connection, bridge.settings.db_schema)
    except ArchiveUnavailableError as error:
        log.warning("partitions.waiting", reason=str(error))
    else:
        if made:
            log.info("partitions.made", partitions=len(made))


async def refresh_money(context: Context) -> None:
    """The cron job that tells recorders of rates and budgets, also while nothing is drained."""
    bridge: Bridge = context["bridge"]
    try:
        await bridge.money.refresh()
    except (ArchiveUnavailableError, RedisUnavailableError, TransactionTimeoutError) as error:
        log.warning("money.waiting", reason=str(error))


async def retire_months(context: Context) -> None:
    """The cron job that begins a retention, where the settings ask for it.

    It takes as long as it takes, and arq's own limit is that of all its jobs: so it runs beside them, in this process.
    """
    bridge: Bridge = context["bridge"]
    if bridge.settings.retention_automatic:
        task = asyncio.create_task(_retire(bridge))
        _beside.add(task)
        task.add_done_callback(_beside.discard)


_beside: set[asyncio.Task[None]] = set()


async def _retire(bridge: Bridge) -> None:
    settings = bridge.settings
    folder = Path(settings.retention_folder) if settings.retention_folder else None
    try:
        await retire(settings, settings.retention_months, folder)
    except BridgeError as error:
        log.warning("retention.waiting", reason=str(error))


def queue_pool(bridge: Bridge) -> ArqRedis:
    """A client of the arq queue. JSON, for pickle would let whoever writes to that Redis run code here."""
    lasting: list[type[Exception]] = [RedisConnectionError, RedisTimeoutError, OSError]
    pool = pool_of(
        bridge.queue_redis_url,
        BlockingConnectionPool,
        max_connections=16,
        socket_connect_timeout=5,
        socket_timeout=15,
        health_check_interval=15,
        retry_on_error=lasting,
        retry=Retry(ExponentialBackoff(cap=1, base=0.05), 8, tuple(lasting)),  # type: ignore[arg-type]  # OSError works
    )
    return ArqRedis(pool, job_serializer=_to_json, job_deserializer=_from_json, default_queue_name=bridge.keys.queue)


def _to_json(job: dict[str, Any]) -> bytes:
    # A result may carry an exception.
    return json.dumps(job, default=str).encode()


def _from_json(raw: bytes) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(raw)
    return job


def arq_worker(bridge: Bridge) -> Worker:
    """The arq side of a worker process, not running yet."""
    return Worker(
        functions=[
            func(
                finalize_session,  # type: ignore[arg-type]  # arq's own protocol wants *args
                name="finalize_session",
                keep_result=0,
                timeout=_JOB_SECONDS,
                max_tries=_REQUEST_TRIES,
            )
        ],
        cron_jobs=[
            _cron(sweep, **_every(bridge.settings.sweep_seconds)),
            _cron(make_partitions, hour={3, 15}, minute=17, second=0),
            _cron(refresh_money, second={20}),
            _cron(retire_months, hour={4}, minute=17, second=0),
        ],
        redis_pool=queue_pool(bridge),
        queue_name=bridge.keys.queue,
        health_check_key=f"{bridge.keys.queue}:health",
        handle_signals=False,
        max_jobs=10,
        job_timeout=_JOB_SECONDS,
        job_completion_wait=5,
        keep_result=0,
        max_tries=20,
        poll_delay=_POLL_SECONDS,
        job_serializer=_to_json,
        job_deserializer=_from_json,
        timezone=UTC,
        log_results=False,
        ctx={"bridge": bridge},
    )


def _cron(function: Any, **when: Any) -> CronJob:  # noqa: ANN401  # arq's own types
    return cron(function, run_at_startup=True, unique=True, timeout=_JOB_SECONDS, keep_result=0, max_tries=20, **when)


def _every(seconds: float) -> dict[str, set[int]]:
    """The ticks of arq's clock that come about every so many seconds."""
    if seconds < _MINUTE:
        return {"second": set(range(0, _MINUTE, max(1, round(seconds))))}
    return {"minute": set(range(0, 60, math.ceil(seconds / _MINUTE))), "second": {0}}


async def serve(bridge: Bridge, *, stop: asyncio.Event) -> None:
    """Be a worker until `stop` is set; then finish what is under way, or hand it back.

    A server that goes away is waited for. The first partitions are made before the first drain. Raises
    MissingExtraError if providers are to be asked and there is nothing to ask them with.
    """
    await asyncio.to_thread(bridge.directory.prepare)
    embedder = embedder_of(bridge.settings)
    async with serve_health(bridge, bridge.settings.health_host, bridge.settings.health_port):
        await _work(bridge, embedder, stop)


def look_for_garbage_seldom() -> None:
    """Set this process' collector of garbage to what a worker needs.

    What a drain makes is freed by counting references; looking for cycles among it took a quarter of a worker's time.
    """
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


async def _work(bridge: Bridge, embedder: Embedder | None, stop: asyncio.Event) -> None:
    look_for_garbage_seldom()
    await make_partitions({"bridge": bridge})
    log.info("worker.started", namespace=bridge.keys.namespace, batch_size=bridge.settings.batch_size)
    drains = asyncio.create_task(bridge.loop.run())
    watching = asyncio.create_task(bridge.failovers.watch())
    arq = asyncio.create_task(_keep_arq_running(bridge))
    upkeep = asyncio.create_task(keep_up(bridge.settings, embedder))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([drains, arq, upkeep, stopping], return_when=asyncio.FIRST_COMPLETED)
    bridge.loop.stop()
    stuck = asyncio.get_running_loop().call_later(bridge.settings.shutdown_seconds + _STUCK_SECONDS, _say_what_is_stuck)
    # What a retention has begun the next one ends.
    await end_tasks(arq, upkeep, watching, stopping, *_beside)
    # Only a loop that has ended begins no batch after those that `finish` waits for.
    _, late = await asyncio.wait({drains}, timeout=bridge.settings.shutdown_seconds)
    await end_tasks(*late)
    results = await asyncio.gather(drains, arq, upkeep, stopping, watching, return_exceptions=True)
    await bridge.loop.finish(bridge.settings.shutdown_seconds)
    stuck.cancel()
    log.info("worker.stopped", archived=bridge.drainer.counts.archived, merged=bridge.drainer.counts.merged)
    for result in results:
        if isinstance(result, Exception):
            raise result


def _say_what_is_stuck() -> None:
    """Tell where a worker is that does not end."""
    places = []
    for task in asyncio.all_tasks():
        if frames := task.get_stack(limit=1):
            code = frames[0].f_code
            places.append(f"{code.co_qualname} {Path(code.co_filename).name}:{frames[0].f_lineno}")
    log.error(
        "worker.stuck", tasks=places, advice="please report it; end it, and its claims fall due again with their leases"
    )


async def _keep_arq_running(bridge: Bridge) -> None:
    """Run arq, and begin anew when its Redis was away for longer than its own patience."""
    while True:
        worker = arq_worker(bridge)
        try:
            await worker.async_run()
        except (RedisError, OSError) as error:
            log.warning("arq.waiting", reason=str(error).splitlines()[0] if str(error) else type(error).__name__)
        finally:
            with contextlib.suppress(RedisError, OSError, asyncio.CancelledError):
                # In a task of its own: this one may be cancelled, and then Python before 3.11.3 closes nothing in it.
                await asyncio.shield(asyncio.create_task(worker.close()))
        await asyncio.sleep(_RESTART_SECONDS)


def stop_on_signals(signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> asyncio.Event:
    """An event that is set by the first of these signals; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, handle)
    return stop
