"""Ending what runs beside."""

from __future__ import annotations

import asyncio
from typing import Any

_PATIENCE_SECONDS = 0.5


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks`, and return when they have ended; a cancellation of the caller is passed on only then.

    A cancellation that meets a task in the moment in which it gets an answer can be swallowed by what waited for that
    answer, as `asyncio.wait_for` does before Python 3.12, and the task goes on: so it is cancelled again until it is
    done. A task group cancels what it holds once.
    """
    interrupted: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=_PATIENCE_SECONDS)
        except asyncio.CancelledError as cancelled:
            interrupted = cancelled
    if interrupted is not None:
        raise interrupted
