"""Both servers in one folder: what `session-bridge up` runs on when it is given no address."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from session_bridge.embedded.postgres import EmbeddedPostgres
from session_bridge.embedded.programs import postgres_programs, valkey_program
from session_bridge.embedded.valkey import EmbeddedValkey


class EmbeddedServers:
    """A PostgreSQL and a Valkey that start and stop together, with their data side by side in a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.postgres = EmbeddedPostgres(Path(folder) / "postgres")
        self.valkey = EmbeddedValkey(Path(folder) / "valkey")

    @property
    def database_url(self) -> str:
        """The address of PostgreSQL, as `DATABASE_URL` takes it."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """The address of Valkey, as `REDIS_URL` takes it."""
        return self.valkey.url

    def start(self) -> Self:
        """Start both side by side; if one does not start, neither is left running.

        Raises MissingExtraError before anything is started if one of the programs is not there.
        """
        postgres_programs()
        valkey_program()
        threads = ThreadPoolExecutor(2)
        try:
            postgres = threads.submit(self.postgres.start)
            valkey = threads.submit(self.valkey.start)
            postgres.result()
            valkey.result()
        except BaseException:
            # An interrupt comes to this thread alone: what the others are starting must be there to be stopped.
            threads.shutdown()
            self.stop()
            raise
        threads.shutdown()
        return self

    def stop(self) -> None:
        """Stop both side by side."""
        with ThreadPoolExecutor(2) as threads:
            postgres = threads.submit(self.postgres.stop)
            valkey = threads.submit(self.valkey.stop)
        postgres.result()
        valkey.result()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
