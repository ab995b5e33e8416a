"""The plain way: one arq job a call, `executemany` for each table."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from arq import create_pool
from arq.connections import RedisSettings
from typing_extensions import override

from benchmark.contender import Contender, Piece, piece
from benchmark.lab import Lab
from benchmark.processes import Child
from benchmark.readymade import expected_rows
from benchmark.workload import LiveCall

QUEUE = "plain:queue"
STARTED = "plain:started"
_PREPARED = "plain:prepared"
_WARM_UP = 10


@dataclass(slots=True)
class Plain(Contender):
    """One arq worker process. Left alone, arq looks for jobs every half second and runs ten at once."""

    max_jobs: int = 10
    poll_seconds: float = 0.5

    @override
    def run(self, lab: Lab, calls: list[LiveCall]) -> Piece:
        environment = {
            "REDIS_URL": lab.redis_url,
            "DATABASE_URL": lab.database_url,
            "PLAIN_MAX_JOBS": str(self.max_jobs),
            "PLAIN_POLL_SECONDS": str(self.poll_seconds),
        }
        with Child([sys.executable, "-m", "benchmark.plain_worker"], environment) as worker:
            lab.wait(lambda: worker.running and lab.redis.exists(STARTED), "arq to start", pause=0.02)
            lab.fill(calls[:_WARM_UP])
            asyncio.run(_enqueue(lab, calls[:_WARM_UP], QUEUE))
            lab.wait_drained(QUEUE)
            lab.empty_archive()
            lab.redis.flushall()
            lab.fill(calls)
            asyncio.run(_enqueue(lab, calls, _PREPARED))
            with piece(lab, len(calls), [worker.pid]) as measured:
                lab.redis.rename(_PREPARED, QUEUE)
                lab.wait_drained(QUEUE)
        lab.require(expected_rows(calls), self.name)
        return measured


async def _enqueue(lab: Lab, calls: list[LiveCall], queue: str) -> None:
    pool = await create_pool(RedisSettings.from_dsn(lab.redis_url))
    try:
        for call in calls:
            await pool.enqueue_job("archive_call", call.call_sid, _queue_name=queue)
    finally:
        await pool.aclose()
