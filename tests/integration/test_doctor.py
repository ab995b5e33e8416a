"""The doctor on real servers: a sound deployment, and each trouble produced for real."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from deployments import free_port
from session_bridge.archive.migrations import migrate
from session_bridge.contract import ids
from session_bridge.doctor import deployment_checks
from session_bridge.doctor.checks import Absent, Answer, Check, Finding, Patient, is_loopback, make, ok, spell
from session_bridge.doctor.redis_checks import REDIS_CHECKS
from session_bridge.doctor.run import examine
from session_bridge.embedded import EmbeddedPostgres, EmbeddedValkey
from session_bridge.live.server import connect
from session_bridge.settings import load_settings

COMMAND = Path(sys.executable).with_name("session-bridge")
FAR = datetime(2041, 5, 17, tzinfo=UTC)


def findings(redis_url: str, database_url: str, **settings: object) -> dict[str, Finding]:
    given = load_settings(redis_url=redis_url, database_url=database_url, **settings)
    return {finding.id: finding for finding in asyncio.run(examine(given))}


def run(redis_url: str, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command, with nothing else of ours in its environment."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"SESSION_BRIDGE_|.*_URL$", name)}
    environment = kept | {"REDIS_URL": redis_url, "DATABASE_URL": database_url, "COLUMNS": "200"}
    return subprocess.run([COMMAND, "doctor", *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sound_postgres(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL as it comes, which keeps what it has acknowledged."""
    with EmbeddedPostgres(servers_folder / "sound-postgres") as server:
        migrate(server.url)
        yield server


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Valkey of the test's own, as it should be."""
    with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def own_redis(own_valkey: EmbeddedValkey) -> Iterator[Any]:
    with redis.Redis.from_url(own_valkey.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def execute(database_url: str) -> Callable[..., None]:
    """Runs SQL in the test's database."""

    def execute(statement: str, *parameters: object) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(statement.encode(), parameters or None)

    return execute


# -- as a whole -------------------------------------------------------------------------------------------------------


def test_a_sound_deployment_has_no_problem(own_valkey: EmbeddedValkey, sound_postgres: EmbeddedPostgres) -> None:
    done = run(own_valkey.url, sound_postgres.url, "--json")
    assert done.returncode == 0, done.stdout
    report = json.loads(done.stdout)
    assert {finding["verdict"] for finding in report["findings"]} == {"ok", "advice"}
    assert report["counts"]["problem"] == report["counts"]["unknown"] == 0
    assert sum(report["counts"].values()) == len(report["findings"])
    names = [finding["id"] for finding in report["findings"]]
    assert len(set(names)) == len(names)
    for finding in report["findings"]:
        assert finding["found"]
        assert "\n" not in finding["found"] + finding["do"]
        assert (finding["verdict"] == "ok") == (finding["do"] == "")

    table = run(own_valkey.url, sound_postgres.url)
    assert table.returncode == 0, table.stdout
    assert "noeviction" in table.stdout
    assert re.search(r"\d+ checks: \d+ ok, \d+ advice\n$", table.stdout)


def test_a_problem_is_an_exit_status_and_stands_with_what_to_do(
    own_valkey: EmbeddedValkey, own_redis: Any, sound_postgres: EmbeddedPostgres
) -> None:
    own_redis.config_set("appendonly", "no")
    done = run(own_valkey.url, sound_postgres.url)
    assert done.returncode == 1
    assert "problem" in done.stdout
    assert "→ CONFIG SET appendonly yes" in done.stdout
    assert done.stderr == ""


def test_without_addresses_it_says_which_settings_are_missing() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    done = subprocess.run([COMMAND, "doctor"], env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "REDIS_URL and DATABASE_URL are not set" in done.stderr


@pytest.mark.parametrize("away", ["redis", "postgres", "both"])
def test_a_server_that_is_away_hides_nothing_of_the_other(redis_url: str, database_url: str, away: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    if away != "postgres":
        redis_url = f"redis://user:secret@{nowhere}/0"
    if away != "redis":
        database_url = f"postgresql://postgres:secret@{nowhere}/postgres"
    found = findings(redis_url, database_url)
    for server, name in (("redis", "Redis"), ("postgres", "PostgreSQL")):
        answers = found[f"{server}.answers"]
        assert answers.verdict == ("problem" if away in (server, "both") else "ok")
        others = [one for one in found.values() if one.id.startswith(f"{server}.") and one is not answers]
        if away in (server, "both"):
            assert {one.verdict for one in others} <= {"unknown", "ok"}
            assert f"{name} was not reached" in {one.found for one in others}
        else:
            assert "unknown" not in {one.verdict for one in others if one.id != "redis.appendfsync"}
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("redis_address", "database_address"),
    [("http://user:secret@host", "postgresql://localhost:1/x"), ("redis://localhost:1", "user:secret@host")],
)
def test_an_address_that_is_none_is_a_problem_and_is_not_quoted(redis_address: str, database_address: str) -> None:
    found = findings(redis_address, database_address)
    assert "is not an address" in found["redis.answers"].found + found["postgres.answers"].found
    assert "secret" not in str(found)


async def test_a_check_that_fails_by_a_bug_is_a_finding() -> None:
    async def buggy(_: Patient) -> Answer:
        raise KeyError("this")

    patient = Patient(load_settings(), Absent("", ""), Absent("", ""))
    finding = await make(Check("a.bug", "a bug", buggy), patient)
    assert (finding.verdict, finding.found) == ("unknown", "the check itself failed: 'this'")


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "check", "verdict"),
    [
        ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, "redis.policy", "problem"),
        ({"maxmemory": "1gb", "maxmemory-policy": "volatile-ttl"}, "redis.policy", "problem"),
        ({"maxmemory-policy": "allkeys-lru"}, "redis.policy", "advice"),
        ({"maxmemory": "1gb"}, "redis.memory", "ok"),
        ({"maxmemory": "1mb"}, "redis.memory", "problem"),
        ({"maxmemory": "1mb"}, "redis.writes", "problem"),
        ({"appendonly": "no"}, "redis.aof", "problem"),
        ({"appendonly": "no"}, "redis.appendfsync", "unknown"),
        ({"appendfsync": "no"}, "redis.appendfsync", "problem"),
        ({"min-replicas-to-write": "1"}, "redis.writes", "problem"),
    ],
)
def test_settings_of_redis(
    own_valkey: EmbeddedValkey,
    own_redis: Any,
    database_url: str,
    *,
    settings: dict[str, str],
    check: str,
    verdict: str,
) -> None:
    for name, value in settings.items():
        own_redis.config_set(name, value)
    finding = findings(own_valkey.url, database_url)[check]
    assert finding.verdict == verdict, finding


def test_evictions_are_told_once(own_valkey: EmbeddedValkey, own_redis: Any, database_url: str) -> None:
    assert findings(own_valkey.url, database_url)["redis.evictions"].verdict == "ok"
    own_redis.config_set("maxmemory-policy", "allkeys-lru")
    own_redis.config_set("maxmemory", own_redis.info("memory")["used_memory"] + 1_000_000)
    for number in range(400):
        own_redis.set(f"filling:{number}", "x" * 10_000)
    own_redis.config_set("maxmemory", 0)
    finding = findings(own_valkey.url, database_url)["redis.evictions"]
    assert finding.verdict == "problem"
    # What the doctor remembers is a key like others, and may have been evicted with them.
    assert re.search("since the (last look|server started)", finding.found)
    assert findings(own_valkey.url, database_url)["redis.evictions"].found.startswith("0 keys evicted")


def test_a_restart_is_told_once(own_valkey: EmbeddedValkey, own_redis: Any, database_url: str) -> None:
    assert "the first look" in findings(own_valkey.url, database_url)["redis.restart"].found
    assert "the same server" in findings(own_valkey.url, database_url)["redis.restart"].found
    own_valkey.kill()
    own_valkey.start()
    finding = findings(own_valkey.url, database_url)["redis.restart"]
    assert (finding.verdict, "was restarted" in finding.found) == ("advice", True)
    assert findings(own_valkey.url, database_url)["redis.restart"].verdict == "ok"
    own_redis.save()
    own_redis.close()
    own_valkey.restart()
    own_redis.config_set("appendonly", "no")
    assert findings(own_valkey.url, database_url)["redis.restart"].verdict == "problem"


def test_replicas_and_a_failover(own_valkey: EmbeddedValkey, own_redis: Any, database_url: str, tmp_path: Path) -> None:
    of = ("--replicaof", f"127.0.0.1 {own_valkey.port}", "--repl-diskless-sync-delay", "0")
    with EmbeddedValkey(tmp_path / "replica", args=of) as replica, redis.Redis.from_url(replica.url) as client:
        deadline = time.monotonic() + 20
        while client.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = findings(own_valkey.url, database_url)
        assert "1 replicas" in found["redis.role"].found
        own_redis.wait(1, 5000)

        found = findings(replica.url, database_url)
        assert found["redis.role"].verdict == "problem"
        assert found["redis.writes"].verdict == "problem"

        client.replicaof("NO", "ONE")
        finding = findings(replica.url, database_url)["redis.restart"]
        assert (finding.verdict, "took over in a failover" in finding.found) == ("advice", True)


def test_a_cluster_is_refused(database_url: str, tmp_path: Path) -> None:
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with EmbeddedValkey(tmp_path / "cluster", args=cluster) as server:
        found = findings(server.url, database_url)
    assert found["redis.single"].verdict == "problem"
    assert found["postgres.answers"].verdict == "ok"


def test_what_the_user_may_not_ask_is_unknown(own_valkey: EmbeddedValkey, own_redis: Any, database_url: str) -> None:
    own_redis.acl_setuser("bridge", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"])
    own_redis.execute_command("ACL", "SETUSER", "bridge", "-info", "-config", "-memory")
    url = own_valkey.url.replace("redis://", "redis://bridge:secret@")
    found = findings(url, database_url)
    assert found["redis.policy"].verdict == "unknown"
    assert "may not run INFO" in found["redis.policy"].found
    assert found["redis.commands"].verdict == "problem"
    assert "MEMORY USAGE" in found["redis.commands"].found
    assert found["redis.writes"].verdict == "ok"

    refused = findings(url.replace("secret", "wrong-one"), database_url)["redis.answers"]
    assert (refused.verdict, "wrong-one" in str(refused)) == ("problem", False)


@pytest.mark.parametrize(
    ("url", "verdict", "told"),
    [
        ("redis://127.0.0.1", "ok", "on this machine"),
        ("unix:///run/redis.sock", "ok", "on this machine"),
        ("redis://redis.example", "advice", "not encrypted"),
        ("rediss://redis.example", "advice", "ssl_check_hostname=true"),
        ("rediss://redis.example?ssl_cert_reqs=none", "advice", "ssl_cert_reqs=required&ssl_check_hostname=true"),
        ("rediss://redis.example?ssl_check_hostname=true", "ok", "certificate is checked"),
    ],
)
async def test_the_way_to_redis(url: str, verdict: str, told: str) -> None:
    [check] = [check for check in REDIS_CHECKS if check.id == "redis.tls"]
    async with connect(url) as client:
        settings = load_settings(redis_url=url, database_url="postgresql://localhost")
        finding = await make(check, Patient(settings, client, Absent("", "")))
    assert finding.verdict == verdict
    assert told in finding.found + finding.do


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_an_archive_that_was_never_migrated(redis_url: str, empty_database_url: str) -> None:
    found = findings(redis_url, empty_database_url)
    assert found["postgres.migrations"].verdict == "problem"
    assert "session-bridge migrate" in found["postgres.migrations"].do
    assert "needs migration" in found["postgres.migrations"].found
    assert found["deployment.archive"].verdict == "unknown"


def test_another_schema(redis_url: str, database_url: str) -> None:
    assert findings(redis_url, database_url, db_schema="elsewhere")["postgres.migrations"].verdict == "problem"
    migrate(database_url, "elsewhere")
    found = findings(redis_url, database_url, db_schema="elsewhere")
    assert found["postgres.migrations"].verdict == "ok"
    assert found["postgres.partitions"].verdict == "ok"


def test_what_is_not_on_disk_is_a_problem(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    finding = findings(redis_url, database_url)["postgres.durability"]
    assert finding.verdict == "problem"
    assert finding.found.startswith("fsync, full_page_writes off")
    execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET synchronous_commit = off")
    assert "synchronous_commit" in findings(redis_url, database_url)["postgres.durability"].found


def test_a_database_that_only_reads(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET default_transaction_read_only = on")
    assert findings(redis_url, database_url)["postgres.writable"].verdict == "problem"


@pytest.mark.parametrize(("ahead", "verdict"), [(0, "problem"), (1, "problem"), (2, "advice")])
def test_a_month_that_is_missing(
    redis_url: str, database_url: str, execute: Callable[..., None], ahead: int, verdict: str
) -> None:
    number = ids.now().year * 12 + ids.now().month - 1 + ahead
    execute(f"DROP TABLE call_events_y{number // 12:04}m{number % 12 + 1:02}")
    finding = findings(redis_url, database_url)["postgres.partitions"]
    assert finding.verdict == verdict
    assert "call_events" in finding.found


def test_a_row_outside_of_all_months(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    execute("INSERT INTO call_analysis (session_id, data) VALUES (%s, '{}')", ids.uuid7(FAR))
    finding = findings(redis_url, database_url)["postgres.defaults"]
    assert finding.verdict == "advice"
    assert "call_analysis_default 1" in finding.found
    execute("SELECT create_monthly_partition('call_analysis', '2041-05-01')")
    assert findings(redis_url, database_url)["postgres.defaults"].verdict == "ok"


def test_the_role(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    assert "superuser" in findings(redis_url, database_url)["postgres.rights"].found
    execute("CREATE ROLE patient LOGIN")
    url = database_url.replace("postgres@", "patient@")
    try:
        execute("ALTER ROLE patient SET statement_timeout = '1s'")
        found = findings(redis_url, url)
        assert found["postgres.rights"].verdict == "problem"
        assert "call_sids" in found["postgres.rights"].found
        assert (found["postgres.limits"].verdict, "statement_timeout 1 s" in found["postgres.limits"].found) == (
            "advice",
            True,
        )
        assert found["calls.dead"].verdict == "unknown"
        assert "permission denied" in found["calls.dead"].found

        execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO patient")
        execute("ALTER ROLE patient SET statement_timeout = 0")
        execute("ALTER ROLE patient SET idle_session_timeout = '60s'")
        found = findings(redis_url, url)
        assert "belong to postgres" in found["postgres.rights"].found
        assert "idle_session_timeout" in found["postgres.limits"].found
    finally:
        execute("DROP OWNED BY patient")
        execute("DROP ROLE patient")


def test_the_way_to_postgresql(redis_url: str, database_url: str) -> None:
    assert findings(redis_url, database_url)["postgres.tls"].found == "on this machine"
    elsewhere = database_url.replace("127.0.0.1", "db.example") + "?hostaddr=127.0.0.1"
    finding = findings(redis_url, elsewhere)["postgres.tls"]
    assert (finding.verdict, "sslmode=verify-full" in finding.do) == ("advice", True)


def test_too_few_connections(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    name = database_url.rpartition("/")[2]
    assert findings(redis_url, database_url)["deployment.connections"].verdict == "ok"
    execute(f"ALTER DATABASE {name} CONNECTION LIMIT 2")
    assert findings(redis_url, database_url)["deployment.connections"].verdict == "problem"


@pytest.mark.parametrize(
    ("mode", "verdict", "told"),
    [
        ("transaction", "ok", "in transaction mode"),
        ("session", "ok", "in session mode"),
        ("statement", "problem", "in statement mode"),
    ],
)
def test_pgbouncer(redis_url: str, database_url: str, pgbouncer: Any, *, mode: str, verdict: str, told: str) -> None:
    assert "none seen" in findings(redis_url, database_url)["postgres.pooler"].found
    with pgbouncer(mode) as address:
        finding = findings(redis_url, address)["postgres.pooler"]
    assert finding.verdict == verdict
    assert told in finding.found


# -- the deployment and its calls -------------------------------------------------------------------------------------


def test_another_archive(redis_url: str, database_url: str) -> None:
    assert "no archive yet" in findings(redis_url, database_url)["deployment.archive"].found
    with redis.Redis.from_url(redis_url) as client:
        client.set("session-bridge:archive", "somebody-else")
    finding = findings(redis_url, database_url)["deployment.archive"]
    assert finding.verdict == "problem"
    assert "session-bridge adopt" in finding.do


@pytest.mark.parametrize(("seconds", "verdict"), [(0, "ok"), (2, "advice"), (-60, "problem")])
def test_clocks(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, seconds: int, verdict: str) -> None:
    monkeypatch.setattr(deployment_checks, "now", lambda: ids.now() + timedelta(seconds=seconds))
    finding = findings(redis_url, database_url)["deployment.clocks"]
    assert finding.verdict == verdict
    assert f"Redis {-seconds:+.1f}"[:-2] in finding.found or seconds == 0


def test_the_outage_budget_is_that_of_the_settings(redis_url: str, database_url: str) -> None:
    finding = findings(redis_url, database_url)["deployment.absences"]
    assert (finding.verdict, "all workers together for 19.5 min" in finding.found) == ("ok", True)
    finding = findings(redis_url, database_url, ttl_seconds=90)["deployment.absences"]
    assert (finding.verdict, "all workers together for 60 s" in finding.found) == ("advice", True)


def test_the_queue(redis_url: str, database_url: str) -> None:
    assert findings(redis_url, database_url)["deployment.queue"].verdict == "advice"
    elsewhere = findings(redis_url, database_url, queue_redis_url="redis://elsewhere/0")
    assert elsewhere["deployment.queue"].verdict == "ok"


def test_an_outcome_function_that_is_not_there(redis_url: str, database_url: str) -> None:
    assert findings(redis_url, database_url, outcome="nowhere:decide")["deployment.outcome"].verdict == "problem"


def twilio(url: str, **more: object) -> dict[str, object]:
    return {"twilio_account_sid": "AC" + "0" * 32, "twilio_auth_token": "opensesame", "twilio_url": url, **more}


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, {"calls": []}, "ok"),
        (401, {"code": 20003}, "problem"),
        (403, {}, "problem"),
        (404, {"code": 20404}, "problem"),
        (429, "", "unknown"),
        (500, "", "unknown"),
        (200, "gibberish", "unknown"),
    ],
)
def test_a_provider_that_is_to_be_asked(
    redis_url: str, database_url: str, played: Any, *, status: int, body: object, verdict: str
) -> None:
    played.otherwise = (status, {}, body)
    given = {"exotel_account_sid": "acme1", "exotel_api_key": "key", "exotel_api_token": "opensesame"}
    given |= {"livekit_url": played.url, "livekit_api_key": "key", "livekit_api_secret": "opensesame"}
    if verdict == "ok":
        played.answers["/twirp/livekit.RoomService/ListRooms"] = (200, {}, {"rooms": []})
    found = findings(redis_url, database_url, **twilio(played.url, exotel_url=played.url, **given))
    for name in ("twilio", "exotel"):
        finding = found[f"providers.{name}"]
        assert finding.verdict == verdict, finding
        assert status == 200 or str(status) in finding.found
    if status != 404:
        assert found["providers.livekit"].verdict == verdict
    assert "opensesame" not in str(found)
    assert "SESSION_BRIDGE_TWILIO_AUTH_TOKEN" in found["providers.twilio"].do or verdict != "problem"


def test_a_provider_that_is_not_asked(redis_url: str, database_url: str, played: Any) -> None:
    found = findings(redis_url, database_url)
    assert {found[f"providers.{name}"].verdict for name in ("twilio", "exotel", "livekit")} == {"ok"}
    # The token alone serves to check signatures.
    half = findings(redis_url, database_url, twilio_auth_token="opensesame")["providers.twilio"]
    assert (half.verdict, "SESSION_BRIDGE_TWILIO_ACCOUNT_SID" in half.do) == ("advice", True)
    nobody = findings(redis_url, database_url, **twilio(played.url, questions_per_minute=0))["providers.twilio"]
    assert (nobody.verdict, "QUESTIONS_PER_MINUTE" in nobody.found) == ("ok", True)
    away = findings(redis_url, database_url, **twilio(f"http://127.0.0.1:{free_port()}"))["providers.twilio"]
    assert (away.verdict, "cannot be reached" in away.found) == ("unknown", True)
    assert played.asked == []


def test_calls_that_wait_with_no_worker(redis_url: str, database_url: str) -> None:
    found = findings(redis_url, database_url)
    assert (found["calls.workers"].verdict, found["calls.waiting"].verdict) == ("advice", "ok")
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("session-bridge:ready", {"CA1": (time.time() - 3600) * 1000 // 1})
    found = findings(redis_url, database_url)
    assert (found["calls.workers"].verdict, found["calls.waiting"].verdict) == ("problem", "problem")


def test_a_sweep_that_has_stopped(redis_url: str, database_url: str) -> None:
    assert "no worker has ever swept" in findings(redis_url, database_url)["calls.sweep"].found
    with redis.Redis.from_url(redis_url) as client:
        client.hset("session-bridge:sweep", mapping={"cursor": 0, "round_began": time.time()})
        assert findings(redis_url, database_url)["calls.sweep"].verdict == "ok"
        client.hset("session-bridge:sweep", "round_began", str(time.time() - 7200))
        assert findings(redis_url, database_url)["calls.sweep"].verdict == "advice"
        client.zadd("session-bridge:workers", {"one": time.time() * 1000})
        assert findings(redis_url, database_url)["calls.sweep"].verdict == "problem"


def test_sessions_that_are_forgotten_or_near_their_end(redis_url: str, database_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.hset("session:web-login", "user", "7")
        client.hset("session:CA1", "provider", "twilio")
        finding = findings(redis_url, database_url)["calls.sessions"]
        assert (finding.verdict, "1 have no TTL" in finding.found) == ("advice", True)
        client.zadd("session-bridge:ready", {"CA1": time.time() * 1000})
        assert findings(redis_url, database_url)["calls.sessions"].verdict == "ok"
        client.hset("session:CA2", "provider", "twilio")
        client.expire("session:CA2", 20)
        finding = findings(redis_url, database_url)["calls.sessions"]
        assert (finding.verdict, "1 expire within two sweeps" in finding.found) == ("advice", True)


def test_dead_and_lost_calls(redis_url: str, database_url: str, execute: Callable[..., None]) -> None:
    execute(
        "INSERT INTO dead_sessions (call_sid, reason, error, attempts, fields, size_bytes) "
        "VALUES ('CA1', 'refused', 'why', 8, 1, 1)"
    )
    execute(
        "INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at, archived_at) "
        "VALUES ('CA2', gen_random_uuid(), 'lost', now(), now(), now(), now())"
    )
    found = findings(redis_url, database_url)
    assert (found["calls.dead"].verdict, found["calls.lost"].verdict) == ("problem", "problem")
    execute("UPDATE dead_sessions SET retried_at = now()")
    execute("UPDATE call_sids SET archived_at = now() - interval '2 days'")
    found = findings(redis_url, database_url)
    assert (found["calls.dead"].verdict, found["calls.lost"].verdict) == ("ok", "ok")


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (45, "45 s"), (119, "119 s"), (1170, "19.5 min"), (7200, "2 h"), (172_800, "2 d")]
)
def test_durations(seconds: float, said: str) -> None:
    assert spell(seconds) == said


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("/run/postgresql", True),
        ("10.0.0.1", False),
        ("db", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_ok_needs_no_advice() -> None:
    assert ok("well").do == ""
