"""Promise 12: no pickle anywhere, and nothing of a caller in a log line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from arq import ArqRedis
from redis.asyncio import ConnectionPool

NUMBER, WORDS, SECRET = "+15550142857", "my mother's maiden name is Featherstonehaugh", "hunter2-open-sesame"


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, ([sys.executable, "-c", f"open({str(self.proof)!r}, 'w')"],)


def test_no_pickle_goes_to_redis_and_none_is_read(deployment: Any, tmp_path: Path, until: Any) -> None:
    written: list[bytes] = []
    begun = threading.Event()

    def listen() -> None:
        with deployment.raw.monitor() as monitor:
            begun.set()
            for command in monitor.listen():
                written.append(command["command"].encode("utf-8", "surrogateescape"))
                if "it is over" in command["command"]:
                    return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    assert begun.wait(5)
    worker = deployment.worker(SWEEP_SECONDS=1)
    proof = tmp_path / "proof"
    for number in range(2):
        job = pickle.dumps({"t": None, "f": "finalize_session", "a": (Evil(proof),), "k": {}, "et": 1})
        deployment.raw.set(f"arq:job:evil{number}", job)
        deployment.raw.zadd("session-bridge:queue", {f"evil{number}": int(time.time() * 1000)})
    until(lambda: not deployment.raw.zscore("session-bridge:queue", "evil1"), "the job was not thrown away")
    deployment.write("CA1")
    deployment.ask("CA1")
    deployment.until_archived("CA1")
    worker.terminate()
    assert worker.ended() == 0
    deployment.raw.echo("it is over")
    listener.join(5)

    assert not proof.exists()
    jobs = [command for command in written if b"arq:job:cron" in command]
    assert jobs, "the sweep's own jobs were not seen"
    ours = [command for command in written if b"evil" not in command]
    assert not [command for command in ours if b"\\x80\\x04" in command or b"\\x80\\x05" in command]


async def test_an_application_asks_through_arq_in_json(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.write("CA1")
    pool = ArqRedis(
        ConnectionPool.from_url(deployment.redis_url),
        job_serializer=lambda job: json.dumps(job).encode(),
        default_queue_name="session-bridge:queue",
    )
    await pool.enqueue_job("finalize_session", "CA1", reason="webhook")
    await pool.aclose(close_connection_pool=True)
    deployment.until_archived("CA1")
    assert deployment.call("CA1")["finalize_reason"] == "webhook"
    worker.stop()


@pytest.fixture
def mortal_servers(mortal_postgres: Any, mortal_valkey: Any) -> tuple[Any, Any]:
    return mortal_postgres, mortal_valkey


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_whole_run_logs_nothing_of_a_caller(
    mortal_deployment: Any, mortal_servers: Any, call_fields: Any, until: Any, log_format: str
) -> None:
    deployment = mortal_deployment
    mortal_postgres, mortal_valkey = mortal_servers
    deployment.redis.config_set("requirepass", SECRET)
    deployment.redis_url = deployment.redis_url.replace("://", f"://:{SECRET}@")
    deployment.database_url = deployment.database_url.replace("postgres@", f"postgres:{SECRET}@")
    deployment.redis.auth(SECRET)
    deployment.redis.connection_pool.connection_kwargs["password"] = SECRET
    deployment.raw.connection_pool.connection_kwargs["password"] = SECRET
    deployment.rows(f"ALTER TABLE call_messages ADD CONSTRAINT polite CHECK (content <> '{SECRET}')")
    environment = {"SWEEP_SECONDS": 1, "MAX_ATTEMPTS": 2, "LOG_FORMAT": log_format}
    worker = deployment.begin_worker(**environment)
    until(lambda: "worker.started" in worker.text)

    said = {"message:8": json.dumps({"role": "user", "content": WORDS}), "from_number": NUMBER, "summary": WORDS}
    sids = {
        NUMBER: said,
        f"room-{NUMBER}": said | {"status": "completed"},
        "CArefused": said | {"message:9": json.dumps({"role": "user", "content": SECRET})},
        "CArejects": said | {"message:9": f"{{{WORDS}", "started_at": WORDS, f"message:{NUMBER} {WORDS}": "{}"},
        "CAlost": said,
    }
    for sid, fields in sids.items():
        deployment.write(sid, call_fields("CA") | fields)
    deployment.redis.set(f"session:{NUMBER}-string", WORDS)
    deployment.ask(NUMBER, f"{NUMBER}-string", "CArefused", "CArejects")
    until(lambda: deployment.state("CAlost"), "it was not swept")
    deployment.redis.delete("session:CAlost")
    for state, sid in (("archived", NUMBER), ("dead", "CArefused"), ("archived", "CArejects"), ("lost", "CAlost")):
        until(lambda: deployment.state(sid) == state, f"{sid} is not {state}")  # noqa: B023
    mortal_postgres.stop(mode="immediate")
    deployment.write("CAlater", call_fields("CA") | said)
    deployment.ask("CAlater")
    until(lambda: "worker.waiting" in worker.text)
    mortal_postgres.start()
    deployment.until_archived("CAlater", f"room-{NUMBER}")
    mortal_valkey.kill()
    until(lambda: worker.text.count("worker.waiting") > 1)
    worker.terminate()
    assert worker.ended() == 0

    text = worker.text
    for event in ("drain.refused", "drain.dead", "drain.reject", "drain.lost", "worker.waiting"):
        assert event in text, f"the run has not come to {event}"
    for secret in (NUMBER, NUMBER[1:], WORDS, "Featherstonehaugh", SECRET):
        assert secret not in text, [line for line in worker.lines if secret in line]
    assert "sid#" in text
    assert "Traceback" not in text


def test_the_same_sid_has_the_same_name_in_every_line_and_another_in_another_deployment(
    deployment: Any, call_fields: Any
) -> None:
    names = []
    for namespace, prefix in (("session-bridge", "session:"), ("other", "call:")):
        worker = deployment.worker(NAMESPACE=namespace, KEY_PREFIX=prefix)
        deployment.redis.hset(f"{prefix}{NUMBER}", mapping=call_fields("CA") | {f"message:{namespace}": "{bad"})
        deployment.redis.zadd(f"{namespace}:ready", {NUMBER: 0})
        names.append(worker.wait_for("drain.reject")["call_sid"])
        worker.stop()
    assert names[0].startswith("sid#")
    assert names[0] != names[1]
