"""Calls as they are, in three sizes: the fields of their live sessions, made from a seed."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate

_SEED = 20_261_121
_TENANTS = 5
_CHUNKS_KNOWN = 2_000
_DISTINCT = 500
_METRICS = ("stt_delay", "user_to_bot_latency", "llm_ttfb", "llm_processing_time", "llm_prompt_tokens", "tts_ttfb")
_WORDS = re.findall(
    r"\w+",
    "the a to of and in for is you we it on that with please booking table friday evening order address street driver "
    "delivery late invoice account number appointment doctor morning available tomorrow confirm change cancel price "
    "contract meter reading technician visit between eight ten network outage refund days card payment receipt email "
    "policy window guests allergy nuts parking entrance second floor parcel neighbour depot customs tracking shipped ",
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many events of each family a call has; every retrieval brings `chunks` chunks."""

    name: str
    turns: int
    metrics: int
    retrievals: int
    chunks: int
    transitions: int
    extractions: int
    tools: int
    interruptions: int
    participants: int
    costs: int


SIZES = {
    size.name: size
    for size in (
        Size("small", 3, 4, 1, 3, 1, 0, 1, 0, 1, 0),
        Size("regular", 16, 80, 8, 5, 8, 4, 4, 2, 2, 4),
        Size("large", 176, 880, 88, 5, 70, 36, 36, 16, 2, 80),
    )
}


@dataclass(frozen=True, slots=True)
class LiveCall:
    """One call: its SID and the fields of its live session."""

    call_sid: str
    fields: dict[bytes, bytes]

    @property
    def size_bytes(self) -> int:
        """Names and values together."""
        return sum(len(name) + len(value) for name, value in self.fields.items())

    def half(self) -> LiveCall:
        """The same call as it was in its middle."""
        fields = dict(list(self.fields.items())[: len(self.fields) // 2])
        for name in (b"ended_at", b"end_reason"):
            fields.pop(name, None)
        return LiveCall(self.call_sid, fields | {b"status": b"in_progress"})


class Workload:
    """Calls of one size. The same seed makes the same calls; only their SIDs differ from round to round."""

    def __init__(self, size: Size, count: int) -> None:
        # A sweep looks at how long a call has been silent, so the calls are of now.
        self._began = datetime.now(UTC) - timedelta(minutes=10)
        self._random = random.Random(_SEED)  # noqa: S311  # the same calls every time
        self._knowledge = [self._words(18, 30) for _ in range(_CHUNKS_KNOWN)]
        # Zipf's law: the chunk of rank r is retrieved 1/r as often as the first.
        self._weights = list(accumulate(1 / rank for rank in range(1, _CHUNKS_KNOWN + 1)))
        self.size = size
        self.count = count
        self._sessions = [self._session(number, size) for number in range(min(count, _DISTINCT))]

    def calls(self, label: str, count: int | None = None) -> list[LiveCall]:
        """The first `count` calls, their SIDs made from `label`; past 500 their content repeats."""
        sessions = self._sessions
        numbers = range(self.count if count is None else count)
        return [LiveCall(f"CA{label}-{number:06}", sessions[number % len(sessions)]) for number in numbers]

    def _words(self, least: int, most: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=self._random.randint(least, most)))

    def _session(self, number: int, size: Size) -> dict[bytes, bytes]:
        draw = self._random
        began = self._began + timedelta(milliseconds=draw.randrange(60_000))
        events = list(self._events(size))
        step = timedelta(minutes=9) / len(events)
        ended = began + timedelta(minutes=9)
        state = {
            "provider": "twilio",
            "account_sid": "AC5d1c6f0a",
            "tenant_id": f"tenant-{number % _TENANTS}",
            "agent_id": "agent-1",
            "agent_name": "Juno",
            "channel": "phone",
            "direction": "inbound",
            "from_number": f"+1555{draw.randrange(10**7):07}",
            "to_number": "+15550100000",
            "language": "en",
            "status": "completed",
            "end_reason": "caller_hangup",
            "conversation_stage": "closing",
            "started_at": began.isoformat(),
            "answered_at": (began + timedelta(seconds=4)).isoformat(),
            "ended_at": ended.isoformat(),
            "last_activity_at": ended.isoformat(),
            "collected_data": _compact({"name": self._words(2, 2), "party": draw.randrange(1, 9)}),
            "metadata": _compact({"campaign": "spring", "attempt": draw.randrange(1, 4)}),
        }
        fields = {name.encode(): value.encode() for name, value in state.items()}
        for place, (family, event) in enumerate(events):
            event["timestamp"] = (began + place * step).isoformat(timespec="milliseconds")
            fields[f"{family}:{self._event_id()}".encode()] = _compact(event).encode()
        return fields

    def _event_id(self) -> str:
        return f"01K{self._random.getrandbits(115):023X}"[:26]

    def _events(self, size: Size) -> Iterator[tuple[str, dict[str, object]]]:
        """The events in the order of a conversation: every turn with its share of all families."""
        draw = self._random
        for turn in range(size.turns):
            at = turn * 9000.0
            user = {"role": "user", "content": self._words(3, 11), "turn_number": turn, "confidence": draw.random()}
            yield "message", user | {"start_ms": at, "end_ms": at + 3000.0}
            agent = {"role": "assistant", "content": self._words(6, 22), "turn_number": turn, "model": "gpt-4o"}
            yield "message", agent | {"start_ms": at + 4000.0, "end_ms": at + 8500.0, "node_id": f"node-{turn % 7}"}
            for family, count in self._families(size):
                for place in range(turn * count // size.turns, (turn + 1) * count // size.turns):
                    yield family, self._event(family, place, turn)

    def _families(self, size: Size) -> Sequence[tuple[str, int]]:
        return (
            ("metric", size.metrics),
            ("rag", size.retrievals),
            ("transition", size.transitions),
            ("extraction", size.extractions),
            ("tool", size.tools),
            ("interruption", size.interruptions),
            ("participant", size.participants),
            ("cost", size.costs),
        )

    def _event(self, family: str, place: int, turn: int) -> dict[str, object]:
        draw = self._random
        if family == "metric":
            kind = _METRICS[place % len(_METRICS)]
            if kind == "llm_prompt_tokens":
                return {"metric_type": kind, "value": draw.randrange(200, 4000), "unit": "tokens", "turn_number": turn}
            value = round(draw.uniform(20, 900), 3)
            return {"metric_type": kind, "value": value, "unit": "ms", "turn_number": turn}
        if family == "rag":
            query = {"query_text": self._words(5, 10), "search_mode": "hybrid", "top_k": self.size.chunks}
            return query | {"processing_time_ms": round(draw.uniform(5, 60), 2), "chunks": self._chunks()}
        if family == "transition":
            return {"from_node_id": f"node-{place % 7}", "to_node_id": f"node-{(place + 1) % 7}", "turn_number": turn}
        if family == "extraction":
            found = {"name": self._words(2, 2), "day": "friday"}
            return {"variables_requested": ["name", "day"], "variables_extracted": found, "success": True}
        if family == "tool":
            use = {"name": "find_slot", "arguments": {"day": "friday", "party": draw.randrange(1, 9)}}
            return use | {"output": {"free": ["18:00", "20:30"]}, "duration_ms": round(draw.uniform(40, 900), 2)}
        if family == "interruption":
            return {"interrupted_at_turn": turn}
        if family == "participant":
            joined = (self._began + timedelta(seconds=place)).isoformat()
            return {"identity": f"party-{place}", "participant_type": ("user", "agent")[place % 2], "joined_at": joined}
        amount = f"{draw.uniform(0.01, 4):.4f}"
        return {"service": ("stt", "llm", "tts", "telephony")[place % 4], "amount_cents": amount, "currency": "USD"}

    def _chunks(self) -> list[dict[str, object]]:
        ranks = self._random.choices(range(_CHUNKS_KNOWN), cum_weights=self._weights, k=self.size.chunks)
        return [
            {
                "chunk_id": f"chunk-{rank}",
                "content": self._knowledge[rank],
                "document_id": f"document-{rank // 20}",
                "filename": "handbook.pdf",
                "chunk_index": rank % 20,
                "token_count": 90,
                "score": round(self._random.random(), 6),
            }
            for rank in ranks
        ]


def _compact(value: object) -> str:
    """JSON as the recorder writes it."""
    return json.dumps(value, separators=(",", ":"))
