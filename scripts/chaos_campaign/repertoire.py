"""The calls that are played: simulated ones, and recorded ones where the folder of these is at hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from session_bridge.contract.fields import Family
from session_bridge.simulate import Ending, SimulatedCall, script
from session_bridge.simulate.call import Event

_FILES = ("spoken.jsonl.gz", "tool-calls-written.jsonl.gz")
_RECORDED_SHARE = 0.25
# Where a turn's time is not known.
_TURN_MS = 3000


def draw_call(random: Random, recorded: Path | None) -> SimulatedCall:
    """A call of its own SID; `recorded` is the folder of recorded calls, if there is one."""
    if recorded is None or random.random() > _RECORDED_SHARE:
        return script(random)
    lines = _lines(recorded)
    return _as_simulated(json.loads(lines[random.randrange(len(lines))]), random)


@cache
def _lines(folder: Path) -> list[str]:
    lines: list[str] = []
    for name in _FILES:
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            lines += file
    return lines


def _as_simulated(call: dict[str, Any], random: Random) -> SimulatedCall:
    steps = tuple(_steps(call["turns"]))
    return SimulatedCall(
        call_sid=f"CA{random.getrandbits(128):032x}",
        scenario=call["source"],
        language=call["language"],
        ending=random.choice((Ending.STOP, Ending.DISCONNECT)),
        end_reason="caller_hangup",
        duration_ms=steps[-1].at_ms + _TURN_MS if steps else _TURN_MS,
        state={
            "provider": "recorded",
            "language": call["language"],
            "direction": call["direction"],
            "metadata": {"call_id": call["call_id"], "labels": call["labels"]},
        },
        steps=steps,
    )


def _steps(turns: list[dict[str, Any]]) -> Iterator[Event]:
    for turn in turns:
        at_ms = turn["seq"] * _TURN_MS
        message = {"role": turn["role"], "content": turn["text"], "turn_number": turn["seq"]}
        message |= {name: turn[name] for name in ("start_ms", "end_ms", "speaker") if turn.get(name) is not None}
        yield Event(at_ms, Family.MESSAGE, message)
        for tool in turn.get("tool_calls") or ():
            said = {"name": tool["name"], "arguments": tool.get("arguments"), "output": tool["result"]}
            yield Event(at_ms, Family.TOOL, {name: value for name, value in said.items() if value is not None})
