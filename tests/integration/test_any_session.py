"""Sessions of hostile fields, drawn at random: every byte is archived or in a reject, in one drain or in several."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from session_bridge.archive.tables import CHILDREN
from session_bridge.contract.fields import DOCUMENTS, STATE_FIELDS
from session_bridge.contract.models import MODELS

pytestmark = pytest.mark.usefixtures("both_ways")

CALLS = 120
WORDS = [
    "", "0", "-1", "1e400", "1e-999999", "NaN", "tomorrow", "2026-11-20T10:00:00Z", "0001-01-01", "user", "agent", "s",
    "llm_prompt_tokens", "user_to_bot_latency", "in-progress", "busy", "true", "\x00", "\ud800", "\x1f\x1e\\N\n", "łż",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e13, 1e308, -9e10, 1_763_632_800, 1_763_632_800_123, float("nan")]
EVENT_TABLES = {table.name for table in CHILDREN if "event_id" in table.columns} - {"call_rag_chunks", "call_events"}
# What tells of a call's drains, and not of the call.
OF_THE_DRAINS = {"id", "call_sid", "session_id", "drains", "first_archived_at", "archived_at", "rejected_at", "digest"}


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(7 if depth < 3 else 5)
    if kind < 2:
        return chance.choice(WORDS)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind == 4:
        return chance.choice([None, True, False])
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.randrange(3))]
    return {chance.choice(WORDS): value(chance, depth + 1) for _ in range(chance.randrange(3))}


def event(chance: random.Random, family: str) -> str:
    needs: dict[str, dict[str, Any]] = {
        "message": {"role": "user", "content": chance.choice(WORDS)}, "transition": {"to_node_id": "n"},
        "metric": {"metric_type": chance.choice(WORDS[12:14]), "value": chance.choice(NUMBERS)},
        "rag": {"query_text": "q", "chunks": [{"content": chance.choice(WORDS), "score": chance.choice(NUMBERS)}]},
        "extraction": {"variables_requested": value(chance), "variables_extracted": value(chance)},
        "interruption": {"interrupted_at_turn": 1}, "tool": {"name": "t", "arguments": value(chance)},
        "participant": {"identity": "p"}, "cost": {"service": "llm", "amount_cents": chance.choice(NUMBERS)},
        "recording": {"recording_sid": "RE1"},
    }  # fmt: skip
    columns = sorted(MODELS[family].known) if family in MODELS else ["timestamp", "own"]
    more = {chance.choice(columns): value(chance) for _ in range(chance.choice([0, 0, 1, 3]))}
    return json.dumps({**needs.get(family, {}), "timestamp": 1_763_632_800 + chance.randrange(9), **more})


def session(chance: random.Random) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for _ in range(chance.randrange(12)):
        family = chance.choice([*MODELS, "dtmf", "mood"])
        name = f"{family}:{chance.choice(['1', '2', '10', '01', 'a', 'ż'])}"
        fields[name.encode()] = event(chance, family).encode()
    for name in chance.sample(sorted(STATE_FIELDS | DOCUMENTS | {"own", "own2"}), chance.randrange(8)):
        text = json.dumps(value(chance)) if name in DOCUMENTS else str(chance.choice([*WORDS, *NUMBERS]))
        fields[name.encode()] = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        fields[chance.randbytes(3)] = chance.randbytes(5)
    return fields


async def content(bridge: Any, sid: str) -> dict[str, list[dict[str, Any]]]:
    """All that is archived of a call, but what tells of its drains."""
    tables = {table.name: await bridge.of(sid, table.name, ", ".join(table.key)) for table in CHILDREN}
    tables["call_sessions"] = [await bridge.call(sid)]
    tables["call_session_rejects"] = await bridge.of(sid, "call_session_rejects", "field_raw, raw")
    return {
        name: [{column: cell for column, cell in row.items() if column not in OF_THE_DRAINS} for row in rows]
        for name, rows in tables.items()
    }


async def test_every_event_is_a_row_or_a_reject_and_no_session_is_dead(bridge: Any) -> None:
    chance = random.Random(1)
    sessions = {f"CA{number}": session(chance) for number in range(CALLS)}
    for sid, fields in sessions.items():
        await bridge.ask(sid, fields | {b"provider": b"x"})
    await bridge.drain()
    assert await bridge.rows("SELECT * FROM dead_sessions") == []
    for sid, fields in sessions.items():
        rows = await bridge.of(sid, "call_session_rejects", "field")
        for row in rows:
            if row["field"] != "transcript_history":
                assert bytes(row["raw"]) == fields[bytes(row["field_raw"])]
        whole = {bytes(row["field_raw"]) for row in rows if row["reason"] != "cleaned"}
        call = await bridge.call(sid)
        known = {name for name in fields if name.split(b":")[0].decode("ascii", "replace") in MODELS and b":" in name}
        of_history = call["total_messages"] if from_history(fields, whole) else 0
        assert sum(call["row_counts"].get(name, 0) for name in EVENT_TABLES) == len(known - whole) + of_history
        assert await bridge.is_gone(sid)


def from_history(fields: dict[bytes, bytes], rejected: set[bytes]) -> bool:
    """Whether the messages are those of the older form of the transcript."""
    return not any(name.startswith(b"message:") and name not in rejected for name in fields)


async def test_a_call_drained_in_pieces_is_the_call_drained_at_once(bridge: Any) -> None:
    chance = random.Random(2)
    sessions = [session(chance) for _ in range(CALLS)]
    for number, fields in enumerate(sessions):
        # What is said of the end when it is not known yet is concluded anew; the SID's own rules are tested elsewhere.
        for name in (b"status", b"status_by", b"tenant_id", b"last_activity_at", b"started_at", b"transcript_history"):
            fields.pop(name, None)
        await bridge.ask(f"at once {number}", fields | {b"provider": b"x"})
        first = {name: raw for name, raw in fields.items() if chance.random() < 0.5}
        await bridge.ask(f"in pieces {number}", first | {b"provider": b"x"})
    await bridge.drain()
    for number, fields in enumerate(sessions):
        rest = {name: raw for name, raw in fields.items() if chance.random() < 0.7}
        await bridge.ask(f"in pieces {number}", rest | {b"provider": b"x"})
    await bridge.drain()
    for number, fields in enumerate(sessions):
        await bridge.ask(f"in pieces {number}", fields | {b"provider": b"x"})
    await bridge.drain()
    assert await bridge.rows("SELECT * FROM dead_sessions") == []
    for number in range(CALLS):
        assert await content(bridge, f"in pieces {number}") == await content(bridge, f"at once {number}"), sessions[
            number
        ]
