"""Real servers for the tests: started once for the run, with an empty database of each kind for every test."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.rows import dict_row

from session_bridge.archive.migrations import migrate
from session_bridge.archive.tables import CHILDREN, SESSIONS
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.service import Bridge, open_bridge
from session_bridge.settings import load_settings

# The real command on real servers, for acceptance tests and for those who do worse to it.
pytest_plugins = ("deployments",)

CHECKOUT = Path(__file__).resolve().parent.parent
VALKEY_DATABASES = 16  # Valkey's default
TEMPLATE = "template_of_tests"
MEMORY, ROOM_FOR_SERVERS = "/dev/shm", 4 << 30  # Linux has it nearly everywhere, in containers often a small one

postgres_numbers = itertools.count(1)
valkey_numbers = itertools.cycle(range(VALKEY_DATABASES))


def folder_in_memory() -> str | None:
    """Where files are in memory, if there is room for the servers: a database for each test is sooner made there."""
    try:
        has_room = shutil.disk_usage(MEMORY).free > ROOM_FOR_SERVERS
    except OSError:
        return None
    return MEMORY if has_room and os.access(MEMORY, os.W_OK | os.X_OK) else None


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that other users may enter: as root, PostgreSQL runs as one of them."""
    with tempfile.TemporaryDirectory(prefix="session-bridge-tests-", dir=folder_in_memory()) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL, which keeps its data while it is killed and restarted but not in a loss of power: that is faster."""
    with EmbeddedPostgres(servers_folder / "postgres", settings={"fsync": "off", "full_page_writes": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(servers_folder: Path) -> Iterator[EmbeddedValkey]:
    """Valkey, which keeps nothing on disk."""
    with EmbeddedValkey(servers_folder / "valkey", args=("--save", "", "--appendonly", "no")) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database with the archive's tables, to be cloned for each test."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(postgres.url_of(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """The address of a database of the test's own, with the archive's tables, empty."""
    yield from _database(postgres, template_database)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database of the test's own that nobody has migrated."""
    yield from _database(postgres, "template1")


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    """The address of an empty Redis database; no test among the last fifteen has it too."""
    number = next(valkey_numbers)
    with redis.Redis(port=valkey.port, db=number) as client:
        client.flushdb()
    return f"redis://127.0.0.1:{valkey.port}/{number}"


@pytest.fixture(scope="session")
def shared_calls() -> Path:
    """The folder of recorded calls, which is no part of the checkout."""
    return _shared("calls", "recorded calls")


@pytest.fixture(scope="session")
def shared_vectors() -> Path:
    """The folder of the providers' own cases for signatures and bodies, which is no part of the checkout."""
    return _shared("vectors", "cases of the providers")


def _shared(name: str, what: str) -> Path:
    shared = os.environ.get("SESSION_BRIDGE_SHARED")
    folder = (Path(shared) if shared else CHECKOUT.parent / "shared") / name
    if not folder.is_dir():
        pytest.skip(f"there are no {what} in {folder}; SESSION_BRIDGE_SHARED names the folder that holds {name}/")
    return folder


def _database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{next(postgres_numbers)}"
    # Many small tables are copied faster than they are logged.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(template)
    )
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(create)
    yield server.url_of(name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        # A worker that the test killed may not have noticed that its connections are to go.
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


# -- faults on the way to a server ------------------------------------------------------------------------------------


class Hold:
    """Where traffic towards a server stops: once `patterns` went by on one connection, in this order."""

    def __init__(self, patterns: tuple[bytes, ...]) -> None:
        self.patterns = patterns
        self._reached = threading.Event()
        self._decided = threading.Event()
        self._verdict = ""

    def wait(self, seconds: float = 20) -> None:
        """Return when the last pattern has come and is held back."""
        assert self._reached.wait(seconds), f"nothing came that is held at {self.patterns}"

    @property
    def reached(self) -> bool:
        return self._reached.is_set()

    def let_go(self) -> None:
        """Let it pass."""
        self._decide("pass")

    def cut(self) -> None:
        """Throw it away, with the connection."""
        self._decide("cut")

    def cut_answer(self) -> None:
        """Let it pass, and cut the connection when the server has answered, so that nobody hears it."""
        self._decide("cut answer")

    def _decide(self, verdict: str) -> None:
        self._verdict = verdict
        self._decided.set()

    def stop_here(self) -> str:
        """Wait for the test's verdict."""
        self._reached.set()
        self._decided.wait(60)
        return self._verdict


class Proxy:
    """A TCP proxy to a server on this machine, which can hold back, stall, cut and refuse.

    `refused` is how many connections it refused.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._holds: list[Hold] = []
        self._refusing = self._stalled = self._closed = False
        self._cuts = self.refused = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, *patterns: str) -> Hold:
        """Hold back what comes with the last of these patterns; the first connection that meets them all has it."""
        hold = Hold(tuple(pattern.encode() for pattern in patterns))
        self._holds.append(hold)
        return hold

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self._refusing = True
        self._cuts += 1

    def reset(self) -> None:
        """Reset every connection, but take new ones."""
        self._cuts += 1

    def stall(self) -> None:
        """Swallow everything, as a network does that has lost its way."""
        self._stalled = True

    def mend(self) -> None:
        """Be a good proxy again."""
        self._refusing = self._stalled = False

    def close(self) -> None:
        self._closed = True
        self._cuts += 1
        for hold in self._holds:
            hold.cut()
        # Closing alone would leave the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        cuts = self._cuts
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._refusing:
                self.refused += 1
                return
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._carry(client, server, cuts)
                if cuts != self._cuts:
                    # A reset, as from a machine that has lost its memory, and no orderly end.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _carry(self, client: socket.socket, server: socket.socket, cuts: int) -> None:
        met: dict[Hold, int] = {}
        answer_is_lost = False
        while cuts == self._cuts:
            if self._stalled:
                time.sleep(0.01)
                continue
            for source in select.select([client, server], [], [], 0.02)[0]:
                data = source.recv(1 << 16)
                if not data or (answer_is_lost and source is server):
                    return
                if source is client:
                    verdict = self._judge(data, met)
                    if verdict == "cut":
                        return
                    answer_is_lost = answer_is_lost or verdict == "cut answer"
                (server if source is client else client).sendall(data)

    def _judge(self, data: bytes, met: dict[Hold, int]) -> str:
        for hold in list(self._holds):
            place, at = met.get(hold, 0), 0
            while place < len(hold.patterns) and (found := data.find(hold.patterns[place], at)) >= 0:
                place, at = place + 1, found + 1
            met[hold] = place
            if place == len(hold.patterns):
                with self._lock:
                    first = hold in self._holds
                    if first:
                        self._holds.remove(hold)
                if first:
                    return hold.stop_here()
        return "pass"


@pytest.fixture
def proxy_to() -> Iterator[Callable[[str], tuple[Proxy, str]]]:
    """Given a server's address, a proxy to it and the address that leads through it."""
    proxies = []

    def start(url: str) -> tuple[Proxy, str]:
        port = urlsplit(url).port
        assert port
        proxies.append(Proxy(port))
        return proxies[-1], url.replace(f":{port}", f":{proxies[-1].port}", 1)

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine, which signs itself; its key is in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("nothing here makes certificates")
    file, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    subprocess.run(make, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + key.read_bytes())
    return file


# -- a provider's API -------------------------------------------------------------------------------------------------


class PlayedProvider:
    """A real HTTP server that answers as a provider's API does.

    `answers` are by path, each a status, headers and a body, or a function that has the request handler to itself;
    `otherwise` is for all other paths. `asked` has what came: method, path, headers and body.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Any] = {}
        self.otherwise: Any = (500, {}, "no answer is prepared")
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                played._answer(self)

            def do_POST(self) -> None:
                played._answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's own name
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that hangs up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = handler.path.partition("?")[0]
        answer = self.answers.get(path, self.otherwise)
        self.asked.append((handler.command, handler.path, dict(handler.headers), body))
        if callable(answer):
            answer(handler)
            return
        status, headers, said = answer
        raw = said.encode() if isinstance(said, str) else said if isinstance(said, bytes) else json.dumps(said).encode()
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Take the request, and say nothing."""
        handler.close_connection = True
        self.released.wait(60)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def played() -> Iterator[PlayedProvider]:
    """A provider's API for the test to play."""
    with contextlib.closing(PlayedProvider()) as provider:
        yield provider


# -- a bridge inside the test -----------------------------------------------------------------------------------------


_OF_THE_RECORD = {"session_id", "id", "call_sid", "archived_at", "first_archived_at", "drains"}


class OpenBridge:
    """A bridge on real servers, driven by the test: what it is asked for it drains at once, in this process."""

    def __init__(self, bridge: Bridge, connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
        self.bridge = bridge
        self.redis: Any = bridge.redis
        self._connection = connection

    async def ask(self, sid: str | bytes, given: Mapping[Any, Any] | None = None, /, **fields: Any) -> None:
        """Write fields as any language would, with a plain HSET, and ask for the drain with a plain ZADD."""
        await self.write(sid, given, **fields)
        await self.redis.zadd(self.bridge.keys.ready, {sid: 0})

    async def write(self, sid: str | bytes, given: Mapping[Any, Any] | None = None, /, **fields: Any) -> None:
        """Write fields with a plain HSET; whatever is neither text nor bytes is written as JSON."""
        every = {**(given or {}), **fields}
        if every:
            plain = {name: v if isinstance(v, str | bytes) else json.dumps(v) for name, v in every.items()}
            await self.redis.hset(self.key(sid), mapping=plain)

    async def drain(self) -> int:
        """Drain until nothing is due, and what a drain has put off is not waited for but drained at once."""
        ready, total = self.bridge.keys.ready, 0
        for _ in range(50):
            due = await self.redis.zrangebyscore(ready, "-inf", time.time_ns() // 1_000_000)
            if not due:
                return total
            total += await self.bridge.loop.drain_once()
            for sid in due:
                # A lease has a fraction: only what was given back is brought forward.
                score = await self.redis.zscore(ready, sid)
                if score is not None and score.is_integer():
                    await self.redis.zadd(ready, {sid: 0}, xx=True)
        raise AssertionError(f"{len(due)} calls are drained again and again")

    async def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """The rows of a query of the archive."""
        return await (await self._connection.execute(query, parameters or None)).fetchall()

    async def call(self, sid: str) -> dict[str, Any]:
        """The row of a call, the latest of its SID."""
        [row] = await self.rows("SELECT * FROM call_sessions WHERE id = session_id_of(%s)", sid)
        return row

    async def of(self, sid: str, table: str, order: str = "sequence") -> list[dict[str, Any]]:
        """The rows of a call in one of its tables."""
        return await self.rows(f"SELECT * FROM {table} WHERE session_id = session_id_of(%s) ORDER BY {order}", sid)

    async def archived(self, sid: str) -> dict[str, list[Any]]:
        """All rows of a call by table, without what tells of its record, to be held against another call's."""
        rows = {}
        for table in (SESSIONS, *CHILDREN):
            query = f"SELECT to_jsonb(t) AS row FROM {table.name} AS t WHERE {table.key[0]} = session_id_of(%s)"
            found = [one["row"] for one in await self.rows(query, sid)]
            kept = [{name: cell for name, cell in row.items() if name not in _OF_THE_RECORD} for row in found]
            rows[table.name] = sorted(kept, key=json.dumps)
        return rows

    async def rejects(self, sid: str) -> dict[bytes, bytes]:
        """What was not understood of a call: raw values by raw field names."""
        rows = await self.of(sid, "call_session_rejects", "digest")
        return {bytes(row["field_raw"]): bytes(row["raw"]) for row in rows}

    async def is_gone(self, sid: str | bytes) -> bool:
        """Whether nothing of a call is left in Redis."""
        return not await self.redis.exists(self.key(sid)) and (
            await self.redis.zscore(self.bridge.keys.ready, sid) is None
        )

    def key(self, sid: str | bytes) -> bytes:
        """The key of a live session."""
        return b"session:" + (sid if isinstance(sid, bytes) else sid.encode())


@pytest.fixture
async def bridge_with(redis_url: str, database_url: str) -> AsyncIterator[Callable[..., Awaitable[OpenBridge]]]:
    """Opens a bridge with these settings besides the addresses."""
    async with (
        contextlib.AsyncExitStack() as stack,
        await psycopg.AsyncConnection.connect(database_url, autocommit=True, row_factory=dict_row) as connection,
    ):

        async def begin(**settings: object) -> OpenBridge:
            given = load_settings(**{"redis_url": redis_url, "database_url": database_url, **settings})
            return OpenBridge(await stack.enter_async_context(open_bridge(given)), connection)

        yield begin


@pytest.fixture
async def bridge(bridge_with: Callable[..., Awaitable[OpenBridge]]) -> OpenBridge:
    """A bridge with the default settings."""
    return await bridge_with()
