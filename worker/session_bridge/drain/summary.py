"""The numbers of a call that a dashboard asks for, computed from its events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from math import floor, isfinite

from session_bridge.archive.tables import Cell
from session_bridge.contract.event import Event
from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import MetricType
from session_bridge.drain.call import Call

# Sums that no column can hold are left out; what they are sums of is archived all the same.
_WIDEST_TOTAL = 2**62


def summarize(call: Call, messages: list[Event]) -> dict[str, Cell]:
    """The summary columns of `call_sessions`, but for its cost; `messages` in their order."""
    metrics: defaultdict[str, list[float]] = defaultdict(list)
    for event in call.of(Family.METRIC):
        metrics[event.metric_type].append(event.value)
    latencies = sorted(metrics.get(MetricType.USER_TO_BOT_LATENCY, ()))
    retrievals, extractions = call.of(Family.RAG), call.of(Family.EXTRACTION)
    prompt = _total(metrics.get(MetricType.LLM_PROMPT_TOKENS))
    completion = _total(metrics.get(MetricType.LLM_COMPLETION_TOKENS))
    roles = Counter([event.role for event in messages])
    return {
        "duration_seconds": _duration(call),
        "total_turns": count_turns(messages),
        "total_messages": len(messages),
        "total_user_messages": roles["user"],
        "total_assistant_messages": roles["assistant"],
        "total_transitions": len(call.of(Family.TRANSITION)),
        "total_interruptions": len(call.of(Family.INTERRUPTION)),
        "total_rag_retrievals": len(retrievals),
        "total_rag_chunks": sum(len(event.chunks or ()) for event in retrievals),
        "total_extractions": len(extractions),
        "total_tool_calls": len(call.of(Family.TOOL)),
        "avg_stt_delay_ms": _mean(metrics.get(MetricType.STT_DELAY)),
        "avg_llm_ttfb_ms": _mean(metrics.get(MetricType.LLM_TTFB)),
        "avg_llm_processing_ms": _mean(metrics.get(MetricType.LLM_PROCESSING_TIME)),
        "avg_tts_ttfb_ms": _mean(metrics.get(MetricType.TTS_TTFB)),
        "avg_user_to_bot_latency_ms": _mean(latencies),
        "p95_user_to_bot_latency_ms": percentile(latencies, 0.95),
        "max_user_to_bot_latency_ms": latencies[-1] if latencies else None,
        "avg_rag_processing_ms": _mean(_times(retrievals) or metrics.get(MetricType.RAG_PROCESSING_TIME)),
        "avg_extraction_ms": _mean(_times(extractions) or metrics.get(MetricType.VARIABLE_EXTRACTION_TIME)),
        "total_prompt_tokens": prompt,
        "total_completion_tokens": completion,
        "total_llm_tokens": None if prompt is None and completion is None else (prompt or 0) + (completion or 0),
        "total_tts_characters": _total(metrics.get(MetricType.TTS_CHARACTERS)),
    }


def count_turns(messages: Iterable[Event]) -> int:
    """How often the word went over: runs of messages by one of the user and the assistant."""
    speakers = [event.role for event in messages if event.role in ("user", "assistant")]
    return sum(1 for _ in groupby(speakers))


def percentile(ordered: list[float], fraction: float) -> float | None:
    """The percentile of an ordered list, interpolated as PostgreSQL's `percentile_cont` does."""
    if not ordered:
        return None
    place = fraction * (len(ordered) - 1)
    below = floor(place)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    return _finite(low + (high - low) * (place - below))


def _mean(values: list[float] | None) -> float | None:
    return _finite(sum(values) / len(values)) if values else None


def _total(values: list[float] | None) -> int | None:
    total = sum(values or ())
    return round(total) if values and abs(total) < _WIDEST_TOTAL else None


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _times(events: list[Event]) -> list[float]:
    return [event.processing_time_ms for event in events if event.processing_time_ms is not None]


def _duration(call: Call) -> float | None:
    started, ended = call.state.get("started_at"), call.state.get("ended_at")
    if call.doubtful or not isinstance(started, datetime) or not isinstance(ended, datetime) or ended < started:
        return None
    return (ended - started).total_seconds()
