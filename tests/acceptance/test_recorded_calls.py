"""Every recorded call, through the recorder and as a plain hash, is archived to the byte.

Which times are recorded: a turn's `start_ms` and `end_ms` always are. Its `timestamp`, by which the archive orders, is
`started_at + start_ms` where the call's start is known (three calls, each turn timed, none before the one before it).
Of the others only the length is known, if that: the recorder stamps each turn when it is recorded, which is in the
order of the line, also where the times within a call overlap or are missing. Turns of one moment are ordered by their
ids, which only grow. A plain hash has no ids: the list of `transcript_history` is the order.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from session_bridge.recorder import CallRecorder

FILES = {"spoken": 2140, "long-conference": 75, "tool-calls-written": 900}
# A turn's fields that have a place of their own; what else is known of a turn is kept beside them.
TURN = {"seq", "role", "text", "start_ms", "end_ms", "speaker", "tool_calls"}
# Of a call without a start: some moment, so that its length can be told.
BEGINNING = datetime(2026, 11, 20, 10, tzinfo=UTC)
AT_ONCE = 100

Call = dict[str, Any]


def calls_of(folder: Path, name: str) -> list[Call]:
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def labels_of(call: Call) -> tuple[Call, Call]:
    """What was collected in the call, and what is said about it."""
    collected = {
        name: call["labels"][name] for name in ("slots", "expected_slots", "tasks") if call["labels"].get(name)
    }
    return collected, {name: value for name, value in call["labels"].items() if name not in collected}


def times_of(call: Call) -> dict[str, datetime]:
    """The call's start and end, as far as its line knows them."""
    started = datetime.fromisoformat(call["started_at"]) if call["started_at"] else BEGINNING
    if call["duration_s"] is None:
        return {"started_at": started} if call["started_at"] else {}
    return {"started_at": started, "ended_at": started + timedelta(seconds=call["duration_s"])}


def state_of(call: Call) -> dict[str, Any]:
    collected, about = labels_of(call)
    return {
        "language": call["language"],
        "direction": call["direction"],
        "collected_data": collected,
        "metadata": about,
    }


def tools_of(call: Call) -> Iterator[tuple[Call, Call]]:
    """Each tool call with its turn; arguments and output are text as they came, valid JSON or not."""
    for turn in call["turns"]:
        for tool in turn.get("tool_calls") or ():
            fields = {"name": tool["name"], "arguments": tool.get("arguments"), "output": tool["result"]}
            yield turn, {**fields, "turn_number": turn["seq"]}


def more_of(turn: Call) -> Call:
    return {name: value for name, value in turn.items() if name not in TURN and value is not None}


async def record(call: Call, sid: str) -> None:
    """Replay a call through the recorder."""
    state: Call = {**state_of(call), **times_of(call)}
    recorder = CallRecorder(sid, **state)
    tools = groupby(tools_of(call), key=lambda pair: pair[0]["seq"])
    tools_by_turn = {seq: [tool for _, tool in pairs] for seq, pairs in tools}
    for turn in call["turns"]:
        timestamp = None
        if call["started_at"] and turn["start_ms"] is not None:
            timestamp = datetime.fromisoformat(call["started_at"]) + timedelta(milliseconds=turn["start_ms"])
        recorder.record_message(
            turn["role"],
            turn["text"],
            timestamp=timestamp,
            start_ms=turn["start_ms"],
            end_ms=turn["end_ms"],
            speaker=turn.get("speaker"),
            **more_of(turn),
        )
        for tool in tools_by_turn.get(turn["seq"], ()):
            recorder.record_tool_call(**tool)
    assert await recorder.end(ended_at=times_of(call).get("ended_at"))


def plain_hash(call: Call) -> dict[str, Any]:
    """A call as a writer in any language leaves it."""
    history = []
    for turn in call["turns"]:
        item = {"role": turn["role"], "content": turn["text"], "speaker": turn.get("speaker"), **more_of(turn)}
        item |= {name: turn[name] for name in ("start_ms", "end_ms")}
        if turn["seq"] % 2:
            item["text"] = item.pop("content")
        history.append({name: value for name, value in item.items() if value is not None})
    fields = {name: value for name, value in state_of(call).items() if value is not None}
    fields |= {name: moment.isoformat() for name, moment in times_of(call).items()}
    fields |= {f"tool:{number}": tool for number, (_, tool) in enumerate(tools_of(call))}
    return fields | {"transcript_history": json.dumps(history, ensure_ascii=False)}


@pytest.fixture
def recorders(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where recorders write, as an application's environment says it."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("SESSION_BRIDGE_SPOOL_DIR", str(tmp_path))


@pytest.fixture
async def archived(bridge: Any, shared_calls: Path, request: Any, recorders: None) -> tuple[Any, list[Call], list[str]]:
    """A file's calls, replayed both ways and drained: the bridge, the calls, and the beginnings of their SIDs."""
    calls = calls_of(shared_calls, request.param)
    assert len(calls) == FILES[request.param]
    for start in range(0, len(calls), AT_ONCE):
        piece = calls[start : start + AT_ONCE]
        await asyncio.gather(*(record(call, f"recorded {call['call_id']}") for call in piece))
        await asyncio.gather(*(bridge.ask(f"plain {call['call_id']}", plain_hash(call)) for call in piece))
    assert await bridge.drain() == 2 * len(calls)
    return bridge, calls, ["recorded ", "plain "]


async def by_call(bridge: Any, query: str) -> dict[str, list[dict[str, Any]]]:
    """Rows in the order of the query, by the call SID that they begin with."""
    rows = await bridge.rows(query)
    return {sid: list(rows) for sid, rows in groupby(rows, key=itemgetter("call_sid"))}


@pytest.mark.parametrize("archived", FILES, indirect=True)
async def test_every_turn_label_and_tool_call_is_archived_as_it_was(archived: Any) -> None:
    bridge, calls, beginnings = archived
    messages = await by_call(
        bridge,
        "SELECT call_sid, sequence, role, content, m.start_ms, m.end_ms, m.speaker, m.timestamp, m.extra "
        "FROM call_messages AS m JOIN call_sessions AS s ON s.id = m.session_id ORDER BY call_sid, sequence",
    )
    tools = await by_call(
        bridge,
        "SELECT call_sid, name, arguments, output, turn_number FROM call_tool_calls AS t "
        "JOIN call_sessions AS s ON s.id = t.session_id ORDER BY call_sid, t.sequence",
    )
    sessions = await by_call(bridge, "SELECT * FROM call_sessions ORDER BY call_sid")
    transcripts = await by_call(
        bridge,
        "SELECT call_sid, transcript_text, transcript_data FROM call_transcripts AS t "
        "JOIN call_sessions AS s ON s.id = t.session_id ORDER BY call_sid",
    )
    assert len(sessions) == 2 * len(calls)
    for call in calls:
        expected = [
            (turn["role"], turn["text"], turn["start_ms"], turn["end_ms"], turn.get("speaker"), more_of(turn) or None)
            for turn in call["turns"]
        ]
        collected, about = labels_of(call)
        expected_tools = [
            (tool["name"], tool["arguments"], tool["output"], tool["turn_number"]) for _, tool in tools_of(call)
        ]
        for beginning in beginnings:
            sid = f"{beginning}{call['call_id']}"
            rows = messages[sid]
            assert [row["sequence"] for row in rows] == [turn["seq"] + 1 for turn in call["turns"]]
            assert [
                tuple(row[name] for name in ("role", "content", "start_ms", "end_ms", "speaker", "extra"))
                for row in rows
            ] == expected, sid
            assert [
                (row["name"], row["arguments"], row["output"], row["turn_number"]) for row in tools.get(sid, ())
            ] == expected_tools, sid
            [session] = sessions[sid]
            assert (session["collected_data"] or {}, session["metadata"]) == (collected, about), sid
            assert (session["language"], session["direction"]) == (call["language"], call["direction"])
            assert (session["status"], session["total_messages"]) == ("completed", len(rows))
            [transcript] = transcripts[sid]
            assert [item["content"] for item in transcript["transcript_data"]] == [
                turn["text"] for turn in call["turns"]
            ]
            assert transcript["transcript_text"] == "\n".join(
                f"{turn.get('speaker') or turn['role']}: {turn['text']}" for turn in call["turns"]
            )
        if call["started_at"]:
            started = datetime.fromisoformat(call["started_at"])
            assert [row["timestamp"] - started for row in messages[f"recorded {call['call_id']}"]] == [
                timedelta(milliseconds=turn["start_ms"]) for turn in call["turns"]
            ]

    assert await bridge.rows("SELECT * FROM call_session_rejects") == [], "not one reject, not of the dirty ones either"
    assert await bridge.rows("SELECT * FROM dead_sessions") == []
    await dirty_times_are_kept_and_bend_nothing(bridge, calls)


async def dirty_times_are_kept_and_bend_nothing(bridge: Any, calls: list[Call]) -> None:
    """Times past the stated length are no reject: they say where in the audio, and neither the call's end nor its
    duration is taken from them."""
    past = [call for call in calls if call["duration_s"] and last_ms(call) > call["duration_s"] * 1000]
    assert len(past) == (20 if calls[0]["source"] == "earnings22" else 0)
    for call in past:
        for beginning in ("recorded ", "plain "):
            session = await bridge.call(f"{beginning}{call['call_id']}")
            assert session["duration_seconds"] == call["duration_s"]
            assert session["completeness"] == "complete"
            [latest] = await bridge.rows("SELECT max(end_ms) FROM call_messages WHERE session_id = %s", session["id"])
            assert latest["max"] == last_ms(call) > session["duration_seconds"] * 1000


def last_ms(call: Call) -> float:
    return max(turn["end_ms"] or 0 for turn in call["turns"])
