"""`session-bridge verify`, for people and for programs, on an archive that a worker has made."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def archive_calls(deployment: Any, until: Callable[..., Any], *sids: str) -> None:
    worker = deployment.worker()
    for sid in sids:
        deployment.write(sid)
    deployment.ask(*sids)
    until(lambda: all(deployment.state(sid) == "archived" and deployment.is_gone(sid) for sid in sids))
    worker.stop()


def test_a_right_archive_and_one_that_is_not(deployment: Any, until: Callable[..., Any]) -> None:
    archive_calls(deployment, until, "CA1", "CA2", "CA3")
    done = deployment.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("PASS") for line in lines) >= 20
    assert not any(line.startswith("FAIL") for line in lines)

    deployment.rows("DELETE FROM call_messages WHERE session_id = session_id_of('CA2')")
    done = deployment.run("verify", "--all")
    assert done.returncode == 1
    [told] = [line for line in done.stdout.splitlines() if line.startswith("FAIL  row counts")]
    assert "CA2" in told
    assert "→" in done.stdout

    done = deployment.run("verify", "--sample", "2", "--json")
    report = json.loads(done.stdout)
    assert set(report["counts"]) == {"PASS", "FAIL", "SKIP"}
    assert sum(report["counts"].values()) == len(report["lines"]) >= 20
    assert all(line["do"] for line in report["lines"] if line["outcome"] == "FAIL")
    assert done.returncode == (1 if report["counts"]["FAIL"] else 0)


def test_an_archive_that_does_not_answer_is_one_clear_line(deployment: Any) -> None:
    done = deployment.run("verify", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "PostgreSQL" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_archive_that_is_not_migrated_says_what_to_do(deployment: Any) -> None:
    done = deployment.run("verify", "--json", SCHEMA="nothing_here")
    assert done.returncode == 1
    lines = {line["id"]: line for line in json.loads(done.stdout)["lines"]}
    assert lines["schema.migrations"]["outcome"] == "FAIL"
    assert "session-bridge migrate" in lines["schema.migrations"]["found"]
    assert lines["calls.summaries"]["outcome"] == "SKIP"
