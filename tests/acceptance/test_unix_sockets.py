"""Servers on the worker's own machine, which are reached through the file system instead of TCP."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from deployments import Deployment
from session_bridge.archive.migrations import migrate
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.recorder import CallRecorder


@pytest.fixture
def local_deployment(servers_folder: Path) -> Iterator[Deployment]:
    """A deployment whose servers listen on sockets in a folder; a socket's path has room for about 100 bytes."""
    with contextlib.ExitStack() as stack:
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bridge-")))
        sockets.chmod(0o777)
        where = {"fsync": "off", "unix_socket_directories": str(sockets)}
        postgres = stack.enter_context(EmbeddedPostgres(servers_folder / "local-postgres", settings=where))
        arguments = ("--unixsocket", str(sockets / "valkey"), "--appendonly", "no")
        stack.enter_context(EmbeddedValkey(servers_folder / "local-valkey", args=arguments))
        folder = quote(str(sockets), safe="")
        database_url = f"postgresql://postgres@{folder}:{postgres.port}/postgres"
        migrate(database_url)
        yield stack.enter_context(contextlib.closing(Deployment(f"unix://{sockets}/valkey?db=3", database_url)))


async def test_a_call_is_recorded_drained_and_examined_over_sockets(local_deployment: Any) -> None:
    worker = local_deployment.worker()
    async with CallRecorder("CA1", redis=local_deployment.redis_url) as call:
        call.record_message("user", "is this TCP?")
        call.record_message("assistant", "it is a file")
        await call.end(reason="user_hangup")
    local_deployment.until_archived("CA1")
    assert local_deployment.said("CA1") == ["is this TCP?", "it is a file"]

    examined = local_deployment.run("doctor", "--json")
    findings = {finding["id"]: finding["found"] for finding in json.loads(examined.stdout)["findings"]}
    assert findings["redis.tls"] == findings["postgres.tls"] == "on this machine"
    worker.stop()
