"""A Redis behind TLS, as most that are rented are: whom the bridge trusts, and what it says of whom it does not."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from session_bridge.recorder import CallRecorder


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass
    finally:
        sink.transport.abort()


class Front:
    """Takes TLS connections for a server of this machine that knows none."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._target = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        self._serving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> int:
        """Where it listens."""
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        )
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        ways = {asyncio.create_task(carry(reader, server)), asyncio.create_task(carry(answers, writer))}
        self._serving |= ways
        await asyncio.wait(ways)
        self._serving -= ways

    async def _end(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()


@pytest.fixture
def behind_tls(redis_url: str, certificate: Path) -> Iterator[str]:
    """The address of the Redis at `redis_url` behind TLS."""
    there = urlsplit(redis_url)
    assert there.port
    with Front(there.port, certificate) as port:
        yield f"rediss://127.0.0.1:{port}{there.path}"


async def test_a_call_is_recorded_and_drained_over_tls(deployment: Any, behind_tls: str, certificate: Path) -> None:
    deployment.redis_url = f"{behind_tls}?ssl_ca_certs={certificate}"
    worker = deployment.worker()
    async with CallRecorder("CA1", redis=deployment.redis_url) as call:
        call.record_message("user", "who listens?")
        await call.end(reason="user_hangup")
    await asyncio.to_thread(deployment.until_archived, "CA1")
    assert deployment.said("CA1") == ["who listens?"]
    worker.stop()


async def test_a_server_that_nobody_vouches_for_is_told_nothing(deployment: Any, behind_tls: str) -> None:
    deployment.redis_url = behind_tls
    refused = await asyncio.to_thread(deployment.run, "worker")
    assert refused.returncode == 1
    assert "shows a certificate that nobody here vouches for" in refused.stderr
    assert "?ssl_ca_certs=" in refused.stderr
    async with CallRecorder("CA1", redis=behind_tls) as call:
        call.record_message("user", "who listens?")
        assert not await call.flush(2)
    assert not deployment.redis.exists("session:CA1")
