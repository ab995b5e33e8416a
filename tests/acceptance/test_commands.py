"""The real command, run for real: what it prints for people and for programs, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

COMMANDS = (
    ("worker",),
    ("sweep",),
    ("sweep", "--dry-run"),
    ("finalize", "CA1"),
    ("show", "CA1"),
    ("dead", "list"),
    ("dead", "show", "1"),
    ("dead", "retry", "1"),
    ("status",),
    ("adopt",),
)


def assert_one_clear_line(done: Any, status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("session-bridge: ")
    for word in words:
        assert word in line


def run_each(deployment: Any, commands: Any, **settings: object) -> list[Any]:
    """The commands, two at a time."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda command: deployment.run(*command, **settings), commands))


def test_an_unreachable_redis_is_one_clear_line(deployment: Any) -> None:
    for done in run_each(deployment, COMMANDS, REDIS_URL="redis://:opensesame@127.0.0.1:1/0"):
        assert_one_clear_line(done, 1, "Redis", "127.0.0.1:1")
        assert "opensesame" not in done.stderr


def test_an_unreachable_postgresql_is_one_clear_line(deployment: Any) -> None:
    nowhere = "postgresql://postgres:opensesame@127.0.0.1:1/x"
    for done in run_each(deployment, (("migrate",), *COMMANDS), DATABASE_URL=nowhere):
        assert_one_clear_line(done, 1, "PostgreSQL", "refused", "DATABASE_URL")
        assert "opensesame" not in done.stderr


def test_a_missing_migration_is_one_clear_line(deployment: Any, empty_database_url: str) -> None:
    for done in run_each(deployment, COMMANDS, DATABASE_URL=empty_database_url):
        assert_one_clear_line(done, 1, "session-bridge migrate")


WRONG = (
    ("LEASE_SECONDS", "soon", "number"),
    ("LEASE_SECONDS", "0", "greater"),
    ("TTL_SECONDS", "10", "two sweeps"),
    ("BATCH_SIZE", "0", "greater"),
    ("METRIC_UNIT", "min", "'ms'"),
    ("TIME_ZONE", "Mars", "Asia/Kolkata"),
    ("TIME_ZONE", "Europe", "Asia/Kolkata"),
    ("EXOTEL_TIME_ZONE", "../Mars", "Asia/Kolkata"),
    ("LOG_LEVEL", "loud", "debug"),
    ("ABANDON_SECONDS", "5", "IDLE_SECONDS"),
    ("NAMESPACE", "session:x", "KEY_PREFIX"),
)


def test_a_wrong_setting_is_one_clear_line(deployment: Any) -> None:
    for setting, value, word in WRONG:
        assert_one_clear_line(deployment.run("settings", **{setting: value}), 2, f"SESSION_BRIDGE_{setting}", word)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("all_proxy", "socks5://user:s3same@127.0.0.1:1", "pip install socksio"),
        ("HTTPS_PROXY", "ftp://user:s3same@127.0.0.1:1", "http://host:port"),
        ("HTTPS_PROXY", "http://user:s3/same@127.0.0.1:1", "http://host:port"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "No such file"),
    ],
)
def test_a_way_to_the_providers_that_is_none_is_one_clear_line(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(name, value)
    credentials = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "opensesame"}
    done = deployment.run("worker", **credentials)
    assert "s3" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("session-bridge: ")
    assert name in last
    assert advice in last
    findings = json.loads(deployment.run("doctor", "--json", **credentials).stdout)["findings"]
    [found] = [finding for finding in findings if finding["id"] == "providers.twilio"]
    assert (found["verdict"], name in found["found"]) == ("problem", True)
    assert deployment.run("status", **credentials).returncode == 0


def test_without_a_time_zone_database_only_another_zone_needs_one(
    deployment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tzdata.py").write_text("raise ModuleNotFoundError(\"No module named 'tzdata'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONTZPATH", "")
    exotel = {"EXOTEL_ACCOUNT_SID": "acme1", "EXOTEL_API_KEY": "key", "EXOTEL_API_TOKEN": "opensesame"}
    worker = deployment.worker(**exotel)
    deployment.drain("CA1", {"provider": "exotel", "started_at": "2026-11-20 10:00:00"})
    assert deployment.call("CA1")["started_at"].isoformat() == "2026-11-20T10:00:00+00:00"
    worker.stop()
    done = deployment.run("status", TIME_ZONE="Europe/Ghent")
    assert_one_clear_line(
        done, 2, "SESSION_BRIDGE_TIME_ZONE: no time zone database: install tzdata (pip install tzdata)"
    )


@pytest.mark.parametrize("nothing", ["", "  "], ids=["empty", "blank"])
def test_what_is_set_to_nothing_is_not_set(deployment: Any, nothing: str) -> None:
    for command in (("migrate",), ("worker",), ("status",)):
        half = deployment.run(*command, DATABASE_URL=nothing)
        assert_one_clear_line(half, 2, "REDIS_URL is set and DATABASE_URL is not")
        assert_one_clear_line(deployment.run(*command, DATABASE_URL=nothing, REDIS_URL=nothing), 2, "DATABASE_URL")
    optional = ("READ_DATABASE_URL", "QUEUE_REDIS_URL", "HEALTH_PORT", "LIVEKIT_URL", "TWILIO_AUTH_TOKEN")
    done = deployment.run("settings", "--json", **dict.fromkeys(optional, nothing))
    listed = {line["name"]: line for line in json.loads(done.stdout)}
    for name in optional:
        line = listed[f"SESSION_BRIDGE_{name}"]
        assert (line["value"], line["source"]) == ("", "default")
    assert deployment.run("status", **dict.fromkeys(optional, nothing)).returncode == 0


@pytest.mark.parametrize("outcome", ["nowhere:decide", "json:nothing", "json", "math:pi"])
def test_an_outcome_function_that_is_none_is_one_clear_line(deployment: Any, outcome: str) -> None:
    for done in run_each(deployment, (("worker",), ("check", "-")), OUTCOME=outcome, stdin="{}"):
        assert_one_clear_line(done, 2, "SESSION_BRIDGE_OUTCOME")


@pytest.mark.parametrize("name", ["REDIS_URL", "DATABASE_URL", "QUEUE_REDIS_URL"])
def test_an_address_that_is_none_is_one_clear_line(deployment: Any, name: str) -> None:
    for url in ("localhost:6379", "http://127.0.0.1/", "redis://127.0.0.1:x/0"):
        done = deployment.run("worker", **{name: url})
        assert done.returncode in (1, 2), url
        assert "Traceback" not in done.stderr, url
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("name", ["REDIS_URL", "QUEUE_REDIS_URL"])
def test_an_option_that_nobody_knows_is_one_clear_line(deployment: Any, name: str) -> None:
    for command in ("worker", "status") if name == "REDIS_URL" else ("worker",):
        done = deployment.run(command, **{name: f"{deployment.redis_url}?socket_timout=5"})
        assert_one_clear_line(done, 2, name, "socket_timout", "socket_timeout")


def test_an_address_that_says_how_others_read_serves_as_any_other(deployment: Any) -> None:
    as_others_read = "decode_responses=True&encoding=latin-1&encoding_errors=ignore&protocol=3&max_connections=1"
    address = f"{deployment.redis_url}?{as_others_read}&socket_timeout=20"
    worker = deployment.worker(REDIS_URL=address, QUEUE_REDIS_URL=address)
    for command in (("play", "3"), ("sweep",), ("status",), ("ledger",)):
        done = deployment.run(*command, REDIS_URL=address)
        assert done.returncode == 0, done.stderr
    deployment.drain("CA1", {"agent_name": "Zoë"})
    assert deployment.call("CA1")["agent_name"] == "Zoë"
    worker.stop()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", "postgres//user:s3same@host"),
        ("DATABASE_URL", "postgresql://user:s3/same@host/calls"),
        ("DATABASE_URL", "postgresql://user:s3same%@host/calls"),
        ("DATABASE_URL", "host=127.0.0.1 port=1 password='s3same"),
        ("REDIS_URL", "redis//user:s3same@host"),
        ("REDIS_URL", "redis://user:s3/same@host"),
        ("REDIS_URL", "redis+sentinel://user:s3/same@host"),
        ("QUEUE_REDIS_URL", "redis://user:s3/same@host"),
    ],
)
def test_a_password_that_makes_an_address_none_is_not_told(deployment: Any, name: str, address: str) -> None:
    for command in (("worker",), ("status",), ("migrate",), ("settings",), ("doctor",)):
        done = deployment.run(*command, **{name: address})
        assert "s3" not in done.stdout + done.stderr, command
        assert "Traceback" not in done.stderr, command
    assert_one_clear_line(deployment.run("worker", **{name: address}), 2, "%2F")


def test_a_redis_that_wants_a_password_is_one_clear_line(deployment: Any, mortal_valkey: Any) -> None:
    import redis

    with redis.Redis(port=mortal_valkey.port) as client:
        client.config_set("requirepass", "x")
    assert_one_clear_line(deployment.run("status", REDIS_URL=mortal_valkey.url), 1, "password")


def test_migrate_from_nothing_and_back(deployment: Any, empty_database_url: str) -> None:
    there = {"DATABASE_URL": empty_database_url}
    done = deployment.run("migrate", "--json", **there)
    assert [step["direction"] for step in json.loads(done.stdout)] == ["up"] * len(json.loads(done.stdout))
    assert json.loads(done.stdout)
    assert json.loads(deployment.run("migrate", "--json", **there).stdout) == []
    assert "nothing to do" in deployment.run("migrate", **there).stdout
    assert "CREATE TABLE call_sids" in deployment.run("migrate", "--sql", **there).stdout
    assert "down" in deployment.run("migrate", "--to", "0", **there).stdout
    assert_one_clear_line(deployment.run("status", **there), 1, "session-bridge migrate")


def test_a_call_from_check_over_finalize_to_show(deployment: Any, call_fields: Any, tmp_path: Path) -> None:
    fields = call_fields("CA1")
    deployment.write("CA1", fields)
    before = deployment.raw.dump("session:CA1")
    file = tmp_path / "call.json"
    file.write_text(json.dumps(fields))
    for what in ("CA1", str(file)):
        done = deployment.run("check", what, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        checked = json.loads(done.stdout)
        assert checked["rejects"] == []
        assert deployment.run("check", what).returncode == 0
    file.write_text(json.dumps(fields | {"message:1": "{bad"}))
    done = deployment.run("check", str(file))
    assert done.returncode == 1
    assert "message:1" in done.stdout
    assert deployment.raw.dump("session:CA1") == before

    live = json.loads(deployment.run("show", "CA1", "--json").stdout)
    assert (live["archived"], live["live"]["status"]) == (None, "in_progress")
    assert "CA1 says 0" in deployment.run("show", "CA1").stdout
    report = json.loads(deployment.run("sweep", "--dry-run", "--json").stdout)
    assert report["sessions"] == 1
    assert deployment.run("sweep", "--dry-run").returncode == 0
    assert deployment.state("CA1") is None

    assert deployment.run("finalize", "CA1", "--reason", "by hand").returncode == 0
    done = deployment.run("status", "--json")
    assert done.returncode == 1, "a call waits and no worker runs"
    assert json.loads(done.stdout)["waiting"] == 1
    assert "no worker" in deployment.run("status").stdout
    worker = deployment.worker()
    deployment.until_archived("CA1")
    done = deployment.run("status", "--json")
    assert (done.returncode, json.loads(done.stdout)["workers"], json.loads(done.stdout)["archived"]) == (0, 1, 1)
    worker.stop()

    shown = json.loads(deployment.run("show", "CA1", "--json").stdout)
    assert shown["live"] is None
    assert shown["archived"]["finalize_reason"] == "by hand"
    assert [message["content"] for message in shown["archived"]["messages"]] == ["CA1 says 0", "CA1 says 1"]
    text = deployment.run("show", "CA1").stdout
    assert "archived" in text
    assert "CA1 says 1" in text
    assert "nothing to do" in deployment.run("finalize", "CA1").stdout


def test_settings_lists_every_setting_with_its_source_and_no_password(deployment: Any) -> None:
    archive, queue = "host=db password='open sesame'", "redis://u:opensesame@q/0"
    done = deployment.run("settings", "--json", DATABASE_URL=archive, QUEUE_REDIS_URL=queue, BATCH_SIZE=7)
    listed = {line["name"]: line for line in json.loads(done.stdout)}
    batch = listed["SESSION_BRIDGE_BATCH_SIZE"]
    assert (batch["value"], batch["source"]) == ("7", "environment")
    assert listed["SESSION_BRIDGE_MAX_ATTEMPTS"]["source"] == "default"
    assert all(line["meaning"] for line in listed.values())
    assert listed["DATABASE_URL"]["value"] == "host=db password=***"
    assert "sesame" not in done.stdout
    assert "SESSION_BRIDGE_BATCH_SIZE" in deployment.run("settings").stdout


def test_what_is_told_is_told_letter_by_letter(deployment: Any) -> None:
    sid = "room[/bold][red]:smile:[1]"
    deployment.write(sid)
    done = deployment.run("finalize", sid)
    assert (done.returncode, done.stdout) == (0, f"asked for: see `session-bridge show {sid}`\n"), done.stderr
    for command in ("show", "explain"):
        assert deployment.run(command, sid).returncode == 0
    without_arq = "import sys; sys.modules['arq'] = None; from session_bridge.cli import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", without_arq, "worker"],
        env=deployment.environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_clear_line(process, 1, "arq is not installed: pip install 'call-session-bridge[worker]'")


def test_what_nobody_knows_is_one_clear_line(deployment: Any) -> None:
    # Longer than the name of any file may be.
    longest = ("check", "ä" * 255)
    for command in (("show", "CA7"), ("finalize", "CA7"), ("check", "CA7"), longest, ("dead", "show", "7")):
        assert_one_clear_line(deployment.run(*command), 1, command[-1])


def test_where_output_is_not_in_utf_8_texts_are_escaped(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "日本語 🎧"
    deployment.worker()
    fields = {"agent_name": "Zoë", "message:1": json.dumps({"role": "user", "content": said})}
    deployment.drain("CA1", fields)
    deployment.write("CA2", fields)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    commands = [
        *(("show", "CA1"), ("show", "CA2"), ("search", "日本語")),
        *(("show", "CA1", "--json"), ("check", "CA2", "--json"), ("search", "日本語", "--json")),
        *(("check", "CA2"), ("explain", "CA1"), ("stats",), ("settings",), ("verify",), ("play", "1")),
    ]
    done = run_each(deployment, commands)
    assert [one.returncode for one in done] == [0] * len(done), [one.stderr for one in done]
    for people in done[:3]:
        assert r"\u65e5\u672c\u8a9e \U0001f3a7" in people.stdout
    for program in done[3:6]:
        assert "🎧" in json.dumps(json.loads(program.stdout), ensure_ascii=False)
