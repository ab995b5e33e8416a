"""Throughput: every contender in every round, in turns, over the same calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmark.bridge import BridgeWorkers
from benchmark.contender import Contender, Piece
from benchmark.handmade import CONTENTS
from benchmark.lab import Lab
from benchmark.limit import Limit
from benchmark.orm import Orm
from benchmark.plain import Plain
from benchmark.plan import Plan, Steps
from benchmark.readymade import make_ready
from benchmark.report import Result, Sheet, Spread
from benchmark.workload import SIZES, Workload

LIMIT, BRIDGE, ORM = "limit", "bridge", "ORM"
# A call of another size stands for as many regular ones as its rows come to.
_CALLS_FOR_ONE = {"small": 5.0, "regular": 1.0, "large": 0.1}
_LEAST_CALLS = 20

Round = dict[str, Piece]


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Throughput of the plan's sizes. Raises UnfairError if the contenders did not write the same rows."""
    result = Result()
    for size in plan.sizes:
        _measure_size(lab, plan, steps, size, result)
    return result


def peak(result: Result) -> float:
    """The median rate of one worker process with regular calls, in calls a second."""
    rate: float = result.figures["regular"]["contenders"][BRIDGE]["calls_per_second"]["median"]
    return rate


def contenders(plan: Plan, workload: Workload) -> list[Contender]:
    """Who takes part; with calls of unusual size only those that the ratios are made of."""
    settings, batch = plan.settings, plan.settings.batch_size
    few: list[Contender] = [
        Limit(LIMIT, batch),
        BridgeWorkers(BRIDGE, workload, settings),
        Orm(ORM, share=0.2),
    ]
    if workload.size.name != "regular":
        return few
    more: list[Contender] = [
        *few,
        Limit(f"{LIMIT}, {settings.concurrency} connections", batch, settings.concurrency),
        Limit(f"{LIMIT}, primary keys only", batch, keys_only=True),
        BridgeWorkers(f"{BRIDGE}, 2 workers", workload, settings, 2),
        Plain("plain, tuned", 50, 0.05, share=0.2),
    ]
    # Of what is like the others, a quick run does without what takes longest to start and to end.
    slow: list[Contender] = [
        BridgeWorkers(f"{BRIDGE}, as in life", workload, settings, in_life=True),
        BridgeWorkers(f"{BRIDGE}, calls rated", workload, settings, rated=True),
        BridgeWorkers(f"{BRIDGE}, 4 workers", workload, settings, 4),
        Plain("plain", share=0.2),
    ]
    return more if plan.quick else [*more, *slow]


def _measure_size(lab: Lab, plan: Plan, steps: Steps, size: str, result: Result) -> None:
    count = max(_LEAST_CALLS, int(plan.calls * _CALLS_FOR_ONE[size]))
    workload = Workload(SIZES[size], count)
    field = contenders(plan, workload)
    steps.expect(plan.rounds * len(field))
    rounds: list[Round] = []
    loads: list[float] = []
    for number in range(plan.rounds):
        loads.append(os.getloadavg()[0])
        done: Round = {}
        # What tires the machine from the first to the last of a round tires them in turn.
        for contender in field if number % 2 == 0 else field[::-1]:
            steps.begin(f"{size} calls, round {number + 1}: {contender.name}")
            lab.empty()
            share = max(_LEAST_CALLS, int(count * contender.share))
            done[contender.name] = contender.run(lab, workload.calls(f"{size}{number}", min(share, count)))
            steps.done()
        rounds.append(done)
    figures = {name: _figures(name, rounds) for name in rounds[0]}
    result.figures[size] = {
        "calls": count,
        "call": _describe(workload),
        "contenders": figures,
        "rounds": [_round_figures(done, load) for done, load in zip(rounds, loads, strict=True)],
    }
    if size == "regular" or not result.headline:
        result.headline = {
            "ratio_to_limit": figures[BRIDGE]["ratio_to_limit"]["median"],
            "ratio_to_orm": figures[BRIDGE]["ratio_to_orm"]["median"],
        }
    result.sheets.append(_sheet(size, result.figures[size], [contender.name for contender in field]))


def _describe(workload: Workload) -> dict[str, float]:
    """What one call of this size is, on average over a few, its chunks' texts not counted as rows of its own."""
    calls = workload.calls("described", min(_LEAST_CALLS, workload.count))
    ready = make_ready(calls, len(calls))
    return {
        "rows": round(sum(count for table, count in ready.rows.items() if table != CONTENTS) / len(calls), 1),
        "redis_bytes": round(sum(call.size_bytes for call in calls) / len(calls)),
        "copy_bytes": round(ready.size_bytes / len(calls)),
    }


def _figures(name: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """A contender over all rounds; its ratios are made within each, so that a slow minute counts on both sides."""
    pieces = [done[name] for done in rounds]
    figures: dict[str, Any] = {
        "ratio_to_limit": Spread.of([done[name].rate / done[LIMIT].rate for done in rounds]).figures(),
        "ratio_to_orm": Spread.of([done[name].rate / done[ORM].rate for done in rounds]).figures(),
        "calls_per_second": Spread.of([piece.rate for piece in pieces]).figures(),
    }
    for who in ("cpu_seconds", "postgres_seconds", "valkey_seconds"):
        spent = [getattr(piece, who) for piece in pieces]
        known = [
            seconds / piece.calls * 1000 for seconds, piece in zip(spent, pieces, strict=True) if seconds is not None
        ]
        figures[f"{who.removesuffix('_seconds')}_ms_per_call"] = median(known) if known else None
    return figures


def _round_figures(done: Round, load: float) -> dict[str, Any]:
    pieces = {name: asdict(piece) | {"calls_per_second": piece.rate} for name, piece in done.items()}
    return {"load_before": load, "pieces": pieces}


def _sheet(size: str, figures: dict[str, Any], order: Sequence[str]) -> Sheet:
    call = figures["call"]
    title = f"Throughput, {size} calls ({call['rows']:.0f} rows, {call['redis_bytes'] / 1000:.0f} kB in Redis)"
    sheet = Sheet(
        title, ("", "of the limit", "times the ORM", "calls/s", "least to most", "own CPU", "PostgreSQL", "Valkey")
    )
    for name in order:
        one = figures["contenders"][name]
        rate = one["calls_per_second"]
        spent = [one[f"{who}_ms_per_call"] for who in ("cpu", "postgres", "valkey")]
        sheet.lines.append(
            (
                name,
                f"{one['ratio_to_limit']['median']:.2f}",
                f"{one['ratio_to_orm']['median']:.1f}",
                f"{rate['median']:,.0f}",
                f"{rate['min']:,.0f} to {rate['max']:,.0f}",
                *("" if figure is None else f"{figure:.2f}" for figure in spent),
            )
        )
    others = [
        piece["others"]
        for done in figures["rounds"]
        for piece in done["pieces"].values()
        if piece["others"] is not None
    ]
    sheet.note = (
        f"{len(figures['rounds'])} rounds of {figures['calls']:,} calls (ORM and plain: a fifth of them); "
        "processor time in ms a call"
    )
    if others:
        sheet.note += f"; other programs kept {Spread.of(others):.1f} processors busy meanwhile"
    return sheet
