"""`session-bridge worker`: be a worker process."""

from __future__ import annotations

import asyncio

import click

from session_bridge import log
from session_bridge.jobs import serve, stop_on_signals
from session_bridge.service import open_bridge
from session_bridge.settings import Settings, load_settings


@click.command("worker")
def worker_command() -> None:
    """Drain calls as they end, until SIGTERM.

    Start as many as there is work for: they share it. SIGTERM finishes what is under way and hands back the rest.
    """
    settings = load_settings()
    log.configure(settings.log_format, settings.log_level, key=settings.namespace)
    asyncio.run(run_worker(settings))


async def run_worker(settings: Settings) -> None:
    """Be a worker with these settings, until a signal."""
    stop = stop_on_signals()
    async with open_bridge(settings) as bridge:
        await serve(bridge, stop=stop)
