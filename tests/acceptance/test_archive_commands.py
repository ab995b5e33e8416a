"""Asking the archive: the real commands, for people and for programs, and the worker that keeps it ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from session_bridge.contract import ids

EMBED = """
import hashlib

def words(texts):
    vectors = []
    for text in texts:
        numbers = [0.01] * 32
        for word in text.lower().split():
            numbers[int(hashlib.sha256(word.encode()).hexdigest(), 16) % 32] += 1
        vectors.append(numbers)
    return vectors
"""


def session(said: str, agent: str = "Ann", tenant: str = "acme", hours_ago: float = 1, **more: Any) -> dict[str, Any]:
    started = ids.now() - timedelta(hours=hours_ago)
    return {
        "status": "completed",
        "tenant_id": tenant,
        "agent_name": agent,
        "language": "en",
        "started_at": started.isoformat(),
        "ended_at": (started + timedelta(seconds=90)).isoformat(),
        "message:1": json.dumps({"role": "user", "content": said}),
        "message:2": json.dumps({"role": "assistant", "content": "Let me see."}),
        "metric:1": json.dumps({"metric_type": "user_to_bot_latency", "value": 640}),
        **more,
    }


@pytest.fixture
def archived(deployment: Any) -> Any:
    """Three calls, drained by a worker that is stopped again."""
    worker = deployment.worker()
    chunk = {"content": "Refunds take five days.", "filename": "refunds.md"}
    more: dict[str, Any] = {"rag:1": json.dumps({"query_text": "refund", "chunks": [chunk]})}
    for sid, fields in (
        ("CA1", session("I want [bold]a refund[/bold] for my invoices", **more)),
        ("CA2", session("Where is my parcel", agent="Bo", tenant="bolt")),
        ("CA3", session("A refund please", hours_ago=30)),
    ):
        deployment.write(sid, fields)
        deployment.ask(sid)
    deployment.until_archived("CA1", "CA2", "CA3")
    worker.stop()
    return deployment


def asked(deployment: Any, *command: str, **settings: Any) -> Any:
    done = deployment.run(*command, "--json", **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_search(archived: Any) -> None:
    hits = asked(archived, "search", "refunds")
    assert {hit["call_sid"] for hit in hits} == {"CA1", "CA3"}
    assert all("<mark>refund</mark>" in hit["snippet"] for hit in hits)
    assert [hit["call_sid"] for hit in asked(archived, "search", "refund", "--since", "24h")] == ["CA1"]
    assert asked(archived, "search", "refund", "--tenant", "bolt") == []
    assert [hit["call_sid"] for hit in asked(archived, "search", "parcels", "--agent", "Bo")] == ["CA2"]
    [hit] = asked(archived, "search", "refund invoice", "--speaker", "user")
    assert (hit["call_sid"], hit["number"], hit["source"]) == ("CA1", 1, "user")
    assert asked(archived, "search", "refund", "--speaker", "assistant") == []
    [hit] = asked(archived, "search", "five days", "--in", "chunks")
    assert (hit["call_sid"], hit["source"]) == ("CA1", "refunds.md")

    text = archived.run("search", "refund").stdout
    assert "CA1" in text
    assert "I want [bold]a refund[/bold]" in text, "what was said is no markup"
    assert "\x02" not in text
    assert archived.run("search", "nonsense").stdout == "nothing found\n"


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        (("search", "--", "-refund"), 1, "needs a word"),
        (("search", "refund", "--semantic"), 2, "SESSION_BRIDGE_EMBEDDING"),
        (("search", "refund", "--since", "yesterday"), 2, "7d"),
        (("search", "refund", "--speaker", "x", "--in", "chunks"), 2, "--speaker"),
        (("stats", "--since", "2d", "--until", "3d"), 2, "--since must be before"),
        (("compat", "--schema", "public"), 1, "--schema"),
        (("embeddings", "--forget", "m"), 1, "no calls were embedded with m"),
    ],
)
def test_what_cannot_be_asked_says_why(deployment: Any, command: tuple[str, ...], status: int, words: str) -> None:
    done = deployment.run(*command)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_migration_is_one_clear_line(deployment: Any, empty_database_url: str) -> None:
    for command in (("search", "x"), ("stats",), ("compat",), ("embeddings",)):
        done = deployment.run(*command, DATABASE_URL=empty_database_url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "session-bridge migrate" in done.stderr


def test_stats(archived: Any) -> None:
    found = asked(archived, "stats", "--since", "2d")
    assert (found["total"]["calls"], found["total"]["completed"], found["total"]["talk_seconds"]) == (3, 3, 270.0)
    assert sum(part["calls"] for part in found["parts"]) == 3
    assert len(found["parts"]) == 3, "two days ago, yesterday and today"
    by_agent = asked(archived, "stats", "--by", "agent")["parts"]
    assert [(part["agent"], part["calls"]) for part in by_agent] == [("Ann", 2), ("Bo", 1)]
    hours = asked(archived, "stats", "--since", "5h", "--by", "hour")["parts"]
    assert len(hours) == 6
    assert sum(part["calls"] for part in hours) == 2

    text = archived.run("stats", "--since", "2d").stdout
    assert "total" in text
    assert "640 ms" in text
    assert "█" in text
    assert f"{ids.now():%Y-%m-%d}" in text
    assert "no calls" in archived.run("stats", "--tenant", "nobody").stdout


def test_compat(archived: Any) -> None:
    assert asked(archived, "compat")["views"] == [
        "calls",
        "voice_calls",
        "voice_messages",
        "call_logs",
        "conversations",
    ]
    said = archived.value("SELECT full_transcript FROM compat.calls WHERE call_sid = 'CA2'")
    assert said == "user: Where is my parcel\nassistant: Let me see."
    assert "made in compat" in archived.run("compat").stdout
    assert "dropped" in archived.run("compat", "--drop").stdout
    assert "none of ours" in archived.run("compat", "--drop").stdout


def test_a_worker_refreshes_the_views_and_embeds_the_calls(
    deployment: Any, until: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_embedding.py").write_text(EMBED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    settings = {"EMBEDDING": "our_embedding:words", "EMBEDDING_MODEL": "words-1", "REFRESH_SECONDS": "1"}
    worker = deployment.worker(**settings)
    for sid, said in (("CA1", "where is my parcel"), ("CA2", "the invoice is wrong")):
        deployment.write(sid, session(said))
        deployment.ask(sid)
    deployment.until_archived("CA1", "CA2")
    until(lambda: deployment.value("SELECT coalesce(sum(calls), 0) FROM conversation_metrics") == 2)
    until(lambda: deployment.value("SELECT count(*) FROM call_embeddings") == 2)
    assert worker.said("views.refreshed")
    worker.stop()
    assert "parcel" not in worker.text

    first, *_ = asked(deployment, "search", "my parcel", "--semantic", **settings)
    assert (first["call_sid"], first["snippet"].splitlines()[0]) == ("CA1", "user: where is my parcel")
    [model] = asked(deployment, "embeddings")
    assert (model["model"], model["dimension"]) == ("words-1", 32)

    other = settings | {"EMBEDDING_MODEL": "words-2"}
    assert asked(deployment, "search", "my parcel", "--semantic", **other) == []
    assert {model["model"] for model in asked(deployment, "embeddings", "--update", **other)} == {"words-1", "words-2"}
    assert asked(deployment, "search", "my parcel", "--semantic", **other)[0]["call_sid"] == "CA1"
    assert "is the model of these settings" in deployment.run("embeddings", "--forget", "words-2", **other).stderr
    [left] = asked(deployment, "embeddings", "--forget", "words-1", **other)
    assert left["model"] == "words-2"
    assert deployment.value("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%words-1%'") == 0


def test_an_embedding_that_fails_stops_no_drain_and_tells_no_text(
    deployment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_embedding.py").write_text("def words(texts):\n    raise ValueError(texts[0])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    deployment.write("CA0", session("my secret number"))
    worker = deployment.worker(EMBEDDING="our_embedding:words")
    deployment.ask("CA0")
    deployment.until_archived("CA0")
    worker.wait_for("embedding.waiting")
    deployment.drain("CA1", session("and another"))
    worker.stop()
    assert "secret" not in worker.text


def test_an_embedding_function_that_is_none_is_one_clear_line(deployment: Any) -> None:
    for name, wanted in (("nowhere:f", "imported"), ("json", "imported"), ("math:pi", "no function")):
        for command in (("worker",), ("search", "x", "--semantic")):
            done = deployment.run(*command, EMBEDDING=name)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
            assert "SESSION_BRIDGE_EMBEDDING" in done.stderr
            assert wanted in done.stderr or "names no function" in done.stderr
