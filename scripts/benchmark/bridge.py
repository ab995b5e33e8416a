"""The bridge: from live sessions in Redis to committed and released."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from typing_extensions import override

from benchmark.contender import Contender, Piece, piece
from benchmark.lab import KEYS, Lab
from benchmark.readymade import expected_rows
from benchmark.team import Team, WorkerSettings
from benchmark.workload import LiveCall, Workload
from session_bridge.archive.journal import JOURNAL
from session_bridge.service import open_bridge
from session_bridge.settings import load_settings

_WARM_UP = 100
_SILENCE_SECONDS = 1e6


@dataclass(slots=True)
class BridgeWorkers(Contender):
    """Worker processes that are up and idle when all requests fall due at once.

    `in_life`: half of the calls were seen by a sweep before, and half of those were checkpointed when they were half
    as long. `rated`: what each call cost is worked out by the price list that comes with the archive.
    """

    workload: Workload
    settings: WorkerSettings
    processes: int = 1
    in_life: bool = field(default=False, kw_only=True)
    rated: bool = field(default=False, kw_only=True)

    @override
    def run(self, lab: Lab, calls: list[LiveCall]) -> Piece:
        more = {"SESSION_BRIDGE_RATES": "true"} if self.rated else {}
        with Team(lab, self.processes, self.settings, more) as team:
            team.warm_up(self.workload.calls("warm", min(_WARM_UP * self.processes, len(calls))))
            if self.in_life:
                _live_a_while(lab, calls)
            lab.fill(calls)
            with piece(lab, len(calls), team.pids) as measured:
                lab.ask(calls)
                lab.wait_drained()
        # A call that was checkpointed has more than one entry in the journal.
        lab.require(expected_rows(calls), self.name, besides=JOURNAL.name if self.in_life else "")
        return measured


def _live_a_while(lab: Lab, calls: list[LiveCall]) -> None:
    seen, checkpointed = calls[::2], calls[::4]
    lab.fill([call.half() for call in seen])
    asyncio.run(_sweep(lab))
    lab.ask(checkpointed, KEYS.checkpoints)
    lab.wait_drained(KEYS.checkpoints)


async def _sweep(lab: Lab) -> None:
    # Nothing here has been silent for long enough to be asked for.
    settings = load_settings(
        redis_url=lab.redis_url,
        database_url=lab.database_url,
        idle_seconds=_SILENCE_SECONDS,
        abandon_seconds=_SILENCE_SECONDS,
        checkpoint_seconds=_SILENCE_SECONDS,
    )
    async with open_bridge(settings) as bridge:
        await bridge.sweeper.sweep(limit=1)
