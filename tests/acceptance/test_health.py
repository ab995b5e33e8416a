"""A worker tells over HTTP how it is, from the real command."""

from __future__ import annotations

import http.client
import re
import socket
from typing import Any

import pytest

METRIC = re.compile(r'# (HELP|TYPE) session_bridge_\w+ .+|session_bridge_\w+(\{(state|answer)="\w+"\})? \d+(\.\d+)?')


def begin(deployment: Any, **settings: object) -> tuple[Any, int]:
    """A worker with a health endpoint, and the port of that."""
    worker = deployment.worker(HEALTH_PORT=0, **settings)
    return worker, worker.wait_for("health.listening")["port"]


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metrics(port: int) -> dict[str, float]:
    """Every sample by its name and labels."""
    status, text = get(port, "/metrics")
    assert status == 200
    assert text.endswith("\n")
    lines = text.splitlines()
    assert [line for line in lines if not METRIC.fullmatch(line)] == []
    samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    assert len({name for name, _, _ in samples}) == len(samples)
    return {name.removeprefix("session_bridge_"): float(value) for name, _, value in samples}


def send(port: int, request: bytes) -> bytes:
    """What comes back for these bytes, however wrong they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(4096):
            answer += data
        return answer


def test_a_worker_at_work(deployment: Any, until: Any) -> None:
    worker, port = begin(deployment)
    until(lambda: get(port, "/ready") == (200, "ready\n"))
    assert get(port, "/live") == (200, "alive\n")
    deployment.drain("CA1", {"provider": "twilio", "message:1": '{"role": "user", "content": "Hi"}', "metric:1": "x"})
    deployment.drain("CA1", {"recording_url": "https://example.com/1"})
    deployment.redis.zadd("session-bridge:ready", {"CA2": "4102444800000"})
    told = metrics(port)
    assert (told["archived_total"], told["merged_total"], told["rejects_total"]) == (1, 1, 1)
    assert (told["dead_total"], told["lost_total"], told["checkpointed_total"]) == (0, 0, 0)
    assert (told['waiting{state="due"}'], told['waiting{state="later"}'], told['waiting{state="leased"}']) == (0, 1, 0)
    assert {told[f'questions_total{{answer="{word}"}}'] for word in ("live", "ended", "unknown")} == {0}
    assert (told["oldest_waiting_seconds"], told["checkpoints_waiting"], told["workers"], told["ready"]) == (0, 0, 1, 1)
    assert (told['calls{state="archived"}'], told['calls{state="dead"}']) == (1, 0)
    worker.stop()


def test_requests_that_are_not_for_it(deployment: Any) -> None:
    worker, port = begin(deployment)
    assert get(port, "/")[0] == 404
    assert get(port, "/metrics/")[0] == 404
    assert get(port, "/live?probe=1")[0] == 200
    assert get(port, "/live", "POST")[0] == 405
    assert get(port, "/live", "HEAD")[0] == 405
    assert b"Allow: GET" in send(port, b"DELETE /live HTTP/1.1\r\n\r\n")
    assert send(port, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert send(port, b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    # Those who keep it waiting, and leave, keep nobody else waiting.
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"GET /live")
        assert get(port, "/live")[0] == 200
    assert send(port, b"GET /live HTTP/1.1\r\nX: " + b"x" * 8192).startswith(b"HTTP/1.1 431 ")
    worker.stop()


def test_nobody_listens_unless_asked(deployment: Any) -> None:
    worker = deployment.worker()
    assert worker.said("health.listening") == []
    worker.stop()


def test_a_port_that_is_taken_is_said(deployment: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = deployment.run("worker", HEALTH_PORT=taken.getsockname()[1])
    assert done.returncode == 2
    assert "SESSION_BRIDGE_HEALTH_PORT" in done.stderr + done.stdout


@pytest.mark.parametrize("away", ["PostgreSQL", "Redis"])
def test_an_outage_is_told_and_over(
    mortal_deployment: Any, mortal_postgres: Any, mortal_valkey: Any, until: Any, *, away: str
) -> None:
    worker, port = begin(mortal_deployment)
    until(lambda: get(port, "/ready")[0] == 200)
    server = mortal_postgres if away == "PostgreSQL" else mortal_valkey
    server.kill()
    # Nothing is asked of the worker, and still it finds out.
    until(lambda: get(port, "/ready")[0] == 503)
    status, why = get(port, "/ready")
    assert status == 503
    assert away in why
    assert why.count("\n") == 1
    assert get(port, "/live")[0] == 200
    told = metrics(port)
    assert (told["ready"], told["archived_total"]) == (0, 0)
    assert ("workers" in told) == (away != "Redis")
    server.start()
    until(lambda: get(port, "/ready")[0] == 200)
    assert worker.running
    until(lambda: {'calls{state="archived"}', "workers"} <= metrics(port).keys())
    worker.stop()
