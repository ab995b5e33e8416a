"""A task that is told to end ends, though what it waited for swallowed that once, as `asyncio.wait_for` may."""

from __future__ import annotations

import asyncio
import contextlib

from session_bridge.tasks import end_tasks


async def _deaf(times: int) -> None:
    """Swallow so many cancellations, and go on for ever."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


async def _started(*deafness: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(_deaf(times)) for times in deafness]
    await asyncio.sleep(0)
    return tasks


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    tasks = await _started(0, 1, 2)
    async with asyncio.timeout(10):
        await end_tasks(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_who_is_cancelled_while_it_ends_tasks_ends_them_first() -> None:
    tasks = await _started(2)
    ending = asyncio.create_task(end_tasks(*tasks))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end_tasks(ending)
    assert ending.cancelled()
    assert all(task.cancelled() for task in tasks)
