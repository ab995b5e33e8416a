"""One campaign from its servers' start to its report."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chaos_campaign.faults import CommitWatch, Scene
from chaos_campaign.leftovers import Leftovers, look, until_quiet
from chaos_campaign.proxy import Proxy
from chaos_campaign.report import Report
from chaos_campaign.schedule import Kind, Sizes, draw_faults
from chaos_campaign.verify import verify
from chaos_campaign.witness import read_witnesses
from chaos_campaign.workers import Team
from session_bridge.archive.migrations import migrate
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey

# Short enough that everything which waits for a time to pass happens within the campaign.
SETTINGS = {
    "SESSION_BRIDGE_LEASE_SECONDS": "4",
    "SESSION_BRIDGE_SWEEP_SECONDS": "3",
    "SESSION_BRIDGE_TTL_SECONDS": "120",
    "SESSION_BRIDGE_GRACE_SECONDS": "2",
    "SESSION_BRIDGE_CHECKPOINT_SECONDS": "4",
    "SESSION_BRIDGE_IDLE_SECONDS": "3",
    "SESSION_BRIDGE_BATCH_SIZE": "10",
    "SESSION_BRIDGE_LOG_FORMAT": "json",
    "SESSION_BRIDGE_LOG_LEVEL": "debug",
}
_LAST_CALL_SECONDS = 60.0
_QUIET_SECONDS = 90.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be run; `recorded` is the folder of recorded calls, if there is one."""

    seed: int
    sizes: Sizes
    recorded: Path | None
    progress: Callable[[str, float], None]
    """Told what happens and how far the campaign is, 0 to 1."""


async def run_campaign(campaign: Campaign) -> Report:
    """Run it on servers of its own, in a folder that goes with them."""
    with tempfile.TemporaryDirectory(prefix="session-bridge-chaos-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        home.chmod(0o711)  # noqa: ASYNC240  # once; as root, PostgreSQL runs as another user
        async with _stage(home) as scene:
            return await _run(campaign, home, scene)


@asynccontextmanager
async def _stage(home: Path) -> AsyncIterator[Scene]:
    """Both servers, a proxy before each, and the workers' team."""
    (home / "workers").mkdir()
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(home / "postgres")
        valkey = EmbeddedValkey(home / "valkey", args=("--appendfsync", "always"))
        for server in (postgres, valkey):
            await asyncio.to_thread(server.start)
            stack.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(migrate, postgres.url)
        to_postgres = await stack.enter_async_context(Proxy(postgres.port))
        to_valkey = await stack.enter_async_context(Proxy(valkey.port))
        environment = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_BRIDGE_")}
        environment |= SETTINGS | {
            "REDIS_URL": valkey.url.replace(f":{valkey.port}", f":{to_valkey.port}"),
            "DATABASE_URL": postgres.url.replace(f":{postgres.port}", f":{to_postgres.port}"),
            "SESSION_BRIDGE_SPOOL_DIR": str(home / "spool"),
        }
        team = Team(home / "workers", environment)
        stack.callback(team.abandon)
        yield Scene(team, postgres, valkey, to_postgres, to_valkey, environment)


async def _run(campaign: Campaign, home: Path, scene: Scene) -> Report:
    clock = asyncio.get_running_loop().time
    began = clock()
    watch = CommitWatch(scene.postgres.url)
    watching = asyncio.create_task(watch.run())
    scene.team.employ(campaign.sizes.workers)
    places = range(campaign.sizes.recorders)
    recording = [asyncio.create_task(_record(campaign, home, scene, place)) for place in places]
    faults = draw_faults(campaign.sizes, Random(campaign.seed))  # noqa: S311  # to be drawn again, not to be secret

    def tell(kind: Kind) -> None:
        campaign.progress(kind, len(scene.struck) / max(1, len(faults)))

    campaign.progress("calls begin", 0)
    await scene.perform(faults, tell)
    campaign.progress("the last calls end", 1)
    endings = await asyncio.gather(*recording)
    quiet_after = clock()
    campaign.progress("waiting until nothing waits", 1)
    await until_quiet(scene.valkey.url, _QUIET_SECONDS)
    quiet_after = clock() - quiet_after
    seconds = clock() - began
    await scene.team.dismiss()
    watching.cancel()
    campaign.progress("comparing", 1)
    told, broken = read_witnesses(home)
    leftovers: Leftovers = await look(scene.valkey.url, scene.postgres.url)
    findings = await asyncio.to_thread(verify, scene.postgres.url, told, broken)
    surprises = [*scene.team.surprises, *filter(None, endings)]
    log = scene.team.log()
    return Report(
        campaign.seed, campaign.sizes, seconds, quiet_after, scene, watch, findings, leftovers, surprises, log
    )


async def _record(campaign: Campaign, home: Path, scene: Scene, place: int) -> str:
    """Run one recording process to its end; returns what is to be said of that, if anything."""
    sizes = campaign.sizes
    calls = sizes.calls // sizes.recorders + (place < sizes.calls % sizes.recorders)
    command = [sys.executable, "-m", "chaos_campaign.recording"]
    command += ["--seed", f"{campaign.seed}/{place}", "--calls", str(calls), "--seconds", str(sizes.seconds)]
    command += ["--witness", str(home / f"witness-{place}.jsonl")]
    command += ["--recorded", str(campaign.recorded)] if campaign.recorded else []
    clock = asyncio.get_running_loop().time
    began, pid, status = clock(), 0, 0
    with (home / f"recorder-{place}.log").open("w+b") as log:
        while not pid or pid in scene.killed_recorders:
            since = ("--since", str(clock() - began))
            process = await asyncio.create_subprocess_exec(
                *command, *since, env=scene.environment, stdout=log, stderr=log
            )
            pid, scene.recorders[place] = process.pid, process
            try:
                async with asyncio.timeout(began + sizes.seconds + _LAST_CALL_SECONDS - clock()):
                    status = await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                return f"recorder {place} waits in vain for Redis to acknowledge its last calls"
            finally:
                del scene.recorders[place]
                if process.returncode is None:
                    process.kill()
        log.seek(0)
        words = log.read().decode(errors="replace").strip().splitlines()
    return f"recorder {place} ended with status {status}: {words[-1] if words else 'silently'}" if status else ""
