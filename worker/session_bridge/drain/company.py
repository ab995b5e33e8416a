"""Who is in a worker's hands together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Company:
    """Lets drains of one worker run side by side, or one by itself while the others wait."""

    def __init__(self) -> None:
        self._door = asyncio.Lock()
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._inside = 0

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        """Run beside whatever else runs like this; wait while somebody is alone, or waits to be."""
        async with self._door:
            self._inside += 1
            self._nobody.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._nobody.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody else runs, and keep it so."""
        async with self._door:
            await self._nobody.wait()
            yield
