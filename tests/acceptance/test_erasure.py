"""Erasure leaves no trace of a person in a dump of either server, and what comes late does not bring them back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments import CALL_ROW
from session_bridge.embedded.programs import postgres_programs

AT = 1_790_000_000  # a moment that matters to no test
NUMBER, SECRET, USER = "+15557770142", "pomegranate", "user-4711"
FORMS = ["+1 555 777 0142", "0015557770142", "+1 (555) 777-0142", NUMBER]
PG_DUMP = postgres_programs() / "pg_dump"


def event(**facts: object) -> str:
    return json.dumps(facts)


def call_of_person(**facts: object) -> dict[str, Any]:
    """A call that has something in every table and in every kind of column."""
    return {
        "provider": "twilio",
        "status": "completed",
        "started_at": AT,
        "from_number": NUMBER,
        "user_id": USER,
        "summary": f"{SECRET} in the summary",
        "collected_data": event(phone=NUMBER, order=SECRET),
        "metadata": event(note=SECRET, caller=NUMBER),
        "analysis": event(sentiment="good", summary=SECRET, topics=[SECRET]),
        "objections_encountered": json.dumps([SECRET]),
        "something_new": f"{SECRET} {NUMBER}",
        "finalize_reason": f"{SECRET} hung up",
        "message:1": event(role="user", content=f"I am {NUMBER} and want a {SECRET}", timestamp=AT + 1),
        "transition:1": event(to_node_id="end", reason=SECRET),
        "metric:1": event(metric_type="llm_ttfb", value=3, processor=SECRET),
        "rag:1": event(
            query_text=SECRET,
            chunks=[{"content": f"only {SECRET}"}, {"content": "shared by all", "filename": SECRET}],
        ),
        "extraction:1": event(variables_requested=["fruit"], variables_extracted={"fruit": SECRET}),
        "interruption:1": event(interrupted_at_turn=1, node_id=SECRET),
        "tool:1": event(name="order", arguments={"fruit": SECRET}, output={"to": NUMBER}),
        "participant:1": event(identity=f"sip_{NUMBER}", name=SECRET),
        "cost:1": event(service="llm", amount_cents="1.5", model=SECRET),
        "recording:1": event(recording_url=f"https://example.test/{SECRET}"),
        "gesture:1": event(what=SECRET),
        "message:2": f"not JSON but {SECRET} of {NUMBER}",
        "message:3": event(role="user", content=f"nul \x00 {SECRET}"),
        **facts,
    }


def dump_of(deployment: Any) -> str:
    """All that PostgreSQL and Redis would give away."""
    done = subprocess.run(
        [PG_DUMP, "--no-owner", deployment.database_url], capture_output=True, text=True, check=True, timeout=60
    )
    parts = [done.stdout]
    for key in deployment.raw.keys("*"):
        parts.append(repr(key))
        kind = deployment.raw.type(key)
        if kind == b"hash":
            parts.append(repr(deployment.raw.hgetall(key)))
        elif kind == b"zset":
            parts.append(repr(deployment.raw.zrange(key, 0, -1)))
        elif kind == b"string":
            parts.append(repr(deployment.raw.get(key)))
        else:
            raise AssertionError(f"{key!r} is a {kind!r}, which this dump does not show")
    return "\n".join(parts)


def traces(dump: str, *words: str) -> list[str]:
    """The lines that hold one of these words, as text or as the hex of bytea."""
    wanted = [*words, *[word.encode().hex() for word in words]]
    return [line[:200] for line in dump.splitlines() if any(word in line for word in wanted)]


def erase(deployment: Any, *arguments: str) -> dict[str, Any]:
    done = deployment.run("erase", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    receipt: dict[str, Any] = json.loads(done.stdout)
    return receipt


@pytest.fixture
def filled(deployment: Any) -> Any:
    """Calls of a person in every place there is, and calls of others beside them."""
    worker = deployment.worker(MAX_ATTEMPTS=1, OUTCOME="")
    deployment.drain("CA1", call_of_person())
    deployment.drain("CA2", call_of_person(from_number="+15550000001", to_number="001 555 777-0142"))
    other = call_of_person()
    other = {name: value for name, value in other.items() if NUMBER not in str(value) and SECRET not in str(value)}
    chunks = event(query_text="hours", chunks=[{"content": "shared by all"}, {"content": "only the other's"}])
    deployment.drain("CA9", other | {"from_number": "+15557770143", "user_id": "user-47", "rag:1": chunks})
    # A room named after the caller, live; one that is dead; one of which only requests are left.
    deployment.write(f"room-{NUMBER}", call_of_person(status="in-progress"))
    deployment.raw.set(f"session:dead-{NUMBER}", SECRET)
    deployment.ask(f"dead-{NUMBER}")
    deployment.redis.hset("session-bridge:attempts", f"gone-{NUMBER}", 3)
    deployment.redis.zadd("session-bridge:opened", {f"gone-{NUMBER}": 1})
    return deployment, worker


def test_nothing_is_left_of_a_person_in_a_dump(filled: Any, until: Any) -> None:
    deployment, worker = filled
    dead_sid = f"dead-{NUMBER}"
    until(lambda: deployment.rows("SELECT 1 FROM dead_sessions"))
    deployment.raw.delete(f"session:{dead_sid}")
    [[dead_id]] = deployment.rows("SELECT id FROM dead_sessions")
    with_fields = "INSERT INTO dead_session_fields VALUES (%s, 'x', 'from_number', %s)"
    deployment.rows(with_fields, dead_id, NUMBER.encode())
    before = traces(dump_of(deployment), NUMBER, SECRET, USER)
    assert len(before) > 30
    receipt = erase(deployment, "--number", "+1 (555) 777-0142")
    dump = dump_of(deployment)
    assert traces(dump, NUMBER, "5557770142", "777-0142", SECRET, USER) == []
    assert "shared by all" in dump
    assert "only the other" in dump
    assert deployment.call("CA9")["user_id"] == "user-47"
    assert receipt["calls"] == 5
    assert receipt["chunk_texts"] == 1
    assert receipt["rows"]["call_sessions"] == 2
    assert receipt["rows"]["dead_sessions"] == 1
    assert "call_sids" in receipt["vacuumed"]
    assert not traces(json.dumps(receipt), "5557770142", SECRET, "CA1", "CA2", "room-", "user-")
    ledger = json.loads(deployment.run("ledger", "--json").stdout)
    assert ledger["balances"]
    assert ledger["retired"] == 5
    worker.stop()
    assert SECRET not in worker.text
    assert NUMBER not in worker.text


@pytest.mark.parametrize("form", FORMS)
def test_a_number_is_found_in_any_form(deployment: Any, form: str) -> None:
    worker = deployment.worker()
    for place, stored in enumerate(FORMS):
        deployment.drain(f"CA{place}", {"provider": "x", "started_at": AT, "to_number": stored})
    deployment.drain("CA8", {"provider": "x", "started_at": AT, "to_number": "+155577701421"})
    deployment.drain("CA9", {"provider": "x", "started_at": AT, "to_number": "+915557770142"})
    done = deployment.run("erase", "--number", form, "--dry-run", "--json")
    assert json.loads(done.stdout) == {"calls": ["CA0", "CA1", "CA2", "CA3"]}
    assert len(deployment.rows("SELECT 1 FROM call_sessions")) == 6
    worker.stop()


def test_a_user_is_erased_and_no_other_of_a_similar_id(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", call_of_person(from_number="", user_id="a.b"))
    deployment.drain("CA2", {"provider": "x", "started_at": AT, "user_id": "axb"})
    deployment.drain("CA3", {"provider": "x", "started_at": AT, "participant:1": event(identity="p", user_id="a.b")})
    assert erase(deployment, "--user", "a.b")["calls"] == 2
    assert deployment.rows("SELECT call_sid FROM call_sessions") == [("CA2",)]
    worker.stop()


def test_calls_of_others_that_mention_a_number(deployment: Any) -> None:
    worker = deployment.worker()
    other = {"provider": "x", "started_at": AT, "from_number": "+15550000001"}
    deployment.drain("CA1", call_of_person())
    deployment.drain("CA2", other | {"message:1": event(role="user", content="his number is 001-555-777 0142, yes")})
    deployment.drain("CA3", other | {"message:1": f"no JSON, but {NUMBER}"})
    deployment.drain("CA4", other | {"rag:1": event(query_text="q", chunks=[{"content": f"call {NUMBER}"}])})
    deployment.drain("CA5", other | {"message:1": event(role="user", content="155577701423 is another")})
    deployment.write("CA6", other | {"metadata": event(callback=NUMBER)})
    found = deployment.run("erase", "--number", NUMBER, "--dry-run", "--json")
    assert json.loads(found.stdout) == {"calls": ["CA1"]}
    found = deployment.run("erase", "--number", NUMBER, "--mentions", "--dry-run", "--json")
    assert json.loads(found.stdout) == {"calls": ["CA1", "CA2", "CA3", "CA4", "CA6"]}
    assert erase(deployment, "--number", NUMBER, "--mentions")["calls"] == 5
    assert traces(dump_of(deployment), NUMBER, "777 0142") == []
    assert deployment.rows("SELECT call_sid FROM call_sessions") == [("CA5",)]
    worker.stop()


def test_a_straggler_is_let_go_and_not_archived(deployment: Any, until: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", call_of_person())
    erase(deployment, "--call", "CA1")
    before = traces(dump_of(deployment), SECRET)
    assert before == []
    # By a request, and by a spool that asks for nothing: the sweep finds that.
    deployment.redis.hset(
        "session:CA1", mapping={"recording_url": SECRET, "message:9": event(role="user", content=SECRET)}
    )
    deployment.ask("CA1")
    until(lambda: deployment.is_gone("CA1"), "the straggler was not released")
    deployment.write("CA1", call_of_person(status="in-progress"))
    deployment.sweep()
    until(lambda: deployment.is_gone("CA1"), "the spooled straggler was not released")
    assert traces(dump_of(deployment), SECRET, NUMBER) == []
    assert deployment.rows("SELECT state, status FROM call_sids") == [("retired", "erased")]
    worker.stop()
    assert len(worker.said("drain.retired")) == 2


def test_a_call_that_begins_after_the_erasure_is_another_call(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.drain("room-1", call_of_person())
    erase(deployment, "--call", "room-1")
    later = deployment.value("SELECT extract(epoch FROM now() + interval '1 minute')::float8")
    row = deployment.drain("room-1", {"provider": "x", "status": "completed", "started_at": str(later)}) or next(
        iter(deployment.rows("SELECT * FROM call_sessions"))
    )
    assert row
    assert deployment.rows("SELECT call_sid FROM call_sessions") == [("room-1",)]
    assert erase(deployment, "--call", "room-1")["rows"]["call_sessions"] == 1
    assert deployment.rows("SELECT count(*), count(DISTINCT call_sid) FROM call_sids") == [(2, 1)]
    worker.stop()


@pytest.mark.parametrize(
    ("held_at", "meanwhile"),
    [
        # The drain has read the session and looked it up; it comes to write when the call is erased.
        (["INSERT INTO call_sids"], "SELECT 1 FROM call_sids WHERE state = 'retired'"),
        # It has entered the call and not committed; the erasure waits for it, and takes its rows too.
        (
            [CALL_ROW, "COMMIT"],
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
        ),
    ],
)
def test_a_drain_in_flight_does_not_bring_the_call_back(
    deployment: Any, proxy_to: Any, until: Any, held_at: list[str], meanwhile: str
) -> None:
    proxy, through = proxy_to(deployment.database_url)
    worker = deployment.worker(DATABASE_URL=through)
    hold = proxy.hold(*held_at)
    deployment.write("CA1", call_of_person())
    deployment.ask("CA1")
    hold.wait()
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("session-bridge")), "erase", "--call", "CA1", "--json"],
        env=deployment.environment({}),
        stdout=subprocess.PIPE,
    ) as erasing:
        until(lambda: deployment.rows(meanwhile))
        hold.let_go()
        assert erasing.wait(60) == 0
    until(lambda: deployment.is_gone("CA1"))
    assert traces(dump_of(deployment), NUMBER, SECRET) == []
    assert deployment.rows("SELECT count(*) FROM call_sessions") == [(0,)]
    worker.stop()


def test_a_call_sid_that_nobody_knows_is_refused(deployment: Any) -> None:
    done = deployment.run("erase", "--call", "CA404", "--yes")
    assert done.returncode == 1
    assert "look at its spelling" in done.stderr
    assert deployment.rows("SELECT 1 FROM call_sids") == []


def test_a_deleted_call_is_hidden_and_can_be_shown_again(deployment: Any) -> None:
    worker = deployment.worker()
    deployment.drain("CA1", call_of_person())
    assert deployment.run("delete", "CA1", "--reason", "asked by phone").returncode == 0
    for table in ("call_sessions", "call_messages", "call_transcripts"):
        assert deployment.value(f"SELECT count(*) FROM visible_{table}") == 0
        assert deployment.value(f"SELECT count(*) FROM {table}") > 0
    shown = deployment.run("show", "CA1")
    assert shown.returncode == 1
    assert SECRET not in shown.stdout
    for place in ("calls", "messages"):
        assert json.loads(deployment.run("search", SECRET, "--in", place, "--json").stdout) == []
    assert json.loads(deployment.run("delete", "--list", "--json").stdout)[0]["reason"] == "asked by phone"
    # Late data joins all the same.
    deployment.drain("CA1", {"recording_sid": "RE1"})
    assert deployment.run("delete", "CA1", "--undo").returncode == 0
    assert deployment.value("SELECT recording_sid FROM visible_call_sessions") == "RE1"
    assert deployment.run("show", "CA1").returncode == 0
    for place in ("calls", "messages"):
        hits = json.loads(deployment.run("search", SECRET, "--in", place, "--json").stdout)
        assert {hit["call_sid"] for hit in hits} == {"CA1"}
    worker.stop()
