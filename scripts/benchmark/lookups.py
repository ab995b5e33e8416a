"""Look-ups: what people ask of an archive of many recorded calls, made by the bridge's own path, and its verification.

`scripts/bench lookups --calls 100000` is the size that the bounds are for. Each call has one vector of random numbers,
which is the hardest case for the index: nothing is near anything.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from benchmark.lab import Lab
from benchmark.plan import Plan, Steps
from benchmark.report import Result, Sheet
from session_bridge.archive.refresh import refresh_views
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings
from session_bridge.verify.checks import Line, Outcome
from session_bridge.verify.run import verify

_CHECKOUT = Path(__file__).resolve().parents[2]
_BATCH_SIZE = 500
_DIMENSION = 128
_EMBED = """\
INSERT INTO call_embeddings (
    session_id, model, part, tenant_id, dimension, first_character, characters, text_digest, embedding)
SELECT id, 'random', 1, tenant_id, %(dimension)s, 1, 100, '', (
    SELECT array_agg(random()::real - 0.5) FROM generate_series(1, %(dimension)s) WHERE id IS NOT NULL)
FROM call_sessions"""


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Load the calls, and verify every one of them: the look-ups' times and plans are among the lines."""
    # As many steps as pieces of the load, and the vectors, the verification of a sample and that of every call.
    steps.expect(-(-plan.calls // _BATCH_SIZE) + 3)
    lab.empty()
    settings = load_settings(redis_url=lab.redis_url, database_url=lab.database_url, batch_size=_BATCH_SIZE)
    steps.begin(f"lookups: loading {plan.calls:,} calls")
    began = perf_counter()
    asyncio.run(_load(settings, plan.calls, steps))
    loaded = perf_counter() - began
    steps.begin("lookups: vectors")
    with lab.connect() as connection:
        connection.execute(_EMBED, {"dimension": _DIMENSION})
        connection.execute("SET maintenance_work_mem = '512MB'; SET max_parallel_maintenance_workers = 1")
        connection.execute("SELECT prepare_semantic_search('random', %s)", [_DIMENSION])
        connection.execute("VACUUM ANALYZE")
        [(size,)] = connection.execute("SELECT pg_database_size(current_database())").fetchall()
    steps.done()
    timed: dict[str, float] = {}
    lines: list[Line] = []
    for what, sample in (("a sample", 1_000), ("every call", None)):
        steps.begin(f"lookups: verifying {what}")
        began = perf_counter()
        lines = asyncio.run(verify(settings, sample))
        timed[what] = perf_counter() - began
        steps.done()
    return _result(plan.calls, loaded, size, timed, lines)


async def _load(settings: Settings, calls: int, steps: Steps) -> None:
    loading = _loading()
    async with open_bridge(settings) as bridge:
        await loading.load_calls(bridge, _recorded_calls(), calls, progress=lambda _: steps.done())
        await refresh_views(bridge.connections)


def _loading() -> Any:  # noqa: ANN401  # a module of the tests, found by its path
    spec = importlib.util.spec_from_file_location("loading", _CHECKOUT / "tests" / "loading.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loading"] = module
    spec.loader.exec_module(module)
    return module


def _recorded_calls() -> Path:
    shared = os.environ.get("SESSION_BRIDGE_SHARED")
    folder = (Path(shared) if shared else _CHECKOUT.parent / "shared") / "calls"
    if not folder.is_dir():
        raise click.ClickException(
            f"there are no recorded calls in {folder}; SESSION_BRIDGE_SHARED names the folder that holds calls/"
        )
    return folder


def _result(calls: int, loaded: float, size: int, timed: dict[str, float], lines: list[Line]) -> Result:
    sheet = Sheet(f"Look-ups in {calls:,} calls ({size / 2**30:.1f} GiB)", ("what", "outcome", "found"))
    for line in lines:
        sheet.lines.append((line.title, line.outcome.value, line.found))
    took = ", ".join(f"{what} in {seconds:.1f} s" for what, seconds in timed.items())
    sheet.note = f"Loaded at {calls / loaded:.0f} calls/s; verified {took}."
    failed = sum(line.outcome is Outcome.FAIL for line in lines)
    figures = {
        "calls": calls,
        "bytes": size,
        "load_seconds": loaded,
        "verify_seconds": timed,
        "lines": {line.id: [line.outcome.value, line.found] for line in lines},
    }
    return Result({"verify_failed": failed}, figures, [sheet])
