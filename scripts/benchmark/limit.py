"""The limit: `COPY` of ready-made bytes, the same rows into the same tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from typing_extensions import override

from benchmark.contender import Contender, Piece, piece
from benchmark.lab import Lab
from benchmark.readymade import Batch, make_ready
from benchmark.workload import LiveCall


@dataclass(slots=True)
class Limit(Contender):
    """Sends bytes, and does nothing else: no Redis, no parsing, no look into what is there already.

    `keys_only` sends them into tables that have their primary keys and no index besides.
    """

    batch_size: int
    connections: int = 1
    keys_only: bool = field(default=False, kw_only=True)

    @override
    def run(self, lab: Lab, calls: list[LiveCall]) -> Piece:
        url = lab.keys_only_url if self.keys_only else lab.database_url
        ready = make_ready(calls, self.batch_size)
        with ExitStack() as stack:
            connections = [stack.enter_context(lab.connect(url)) for _ in range(self.connections)]
            with piece(lab, len(calls), [os.getpid()]) as measured:
                if self.connections == 1:
                    send(connections[0], ready.batches)
                else:
                    self._send_side_by_side(connections, ready.batches)
        lab.require(ready.rows, self.name, url)
        return measured

    def _send_side_by_side(self, connections: list[psycopg.Connection[Any]], batches: Sequence[Batch]) -> None:
        with ThreadPoolExecutor(len(connections)) as threads:
            shares = [batches[place :: len(connections)] for place in range(len(connections))]
            for result in [threads.submit(send, *work) for work in zip(connections, shares, strict=True)]:
                result.result()


def send(connection: psycopg.Connection[Any], batches: Sequence[Batch]) -> None:
    """Each batch in a transaction of its own."""
    with connection.cursor() as cursor:
        for batch in batches:
            with connection.transaction():
                for part in batch:
                    with cursor.copy(part.statement) as copy:
                        copy.write(part.text)
