"""Every summary column computed again, by SQL from the rows; each query is about one row of `call_sessions`."""

from __future__ import annotations

from collections.abc import Mapping

_WHOLE = "round(sum(value))::bigint"


def _count(table: str, condition: str = "true") -> str:
    return f"SELECT count(*) FROM {table} WHERE session_id = call.id AND {condition}"  # noqa: S608  # names of our own


def _metric(kind: str, aggregate: str = "avg(value)") -> str:
    return f"SELECT {aggregate} FROM call_metrics WHERE session_id = call.id AND metric_type = '{kind}'"  # noqa: S608


def _mean_time(table: str, kind: str) -> str:
    own = f"SELECT avg(processing_time_ms) FROM {table} WHERE session_id = call.id"  # noqa: S608
    return f"SELECT coalesce(({own}), ({_metric(kind)}))"


SUMMARIES: Mapping[str, str] = {
    "duration_seconds": "SELECT extract(epoch FROM call.ended_at - call.started_at)::float8 "
    "WHERE call.ended_at >= call.started_at",
    "total_turns": (
        "SELECT count(*) FROM (SELECT role, lag(role) OVER (ORDER BY sequence) AS before FROM call_messages "
        "WHERE session_id = call.id AND role IN ('user', 'assistant')) AS said WHERE role IS DISTINCT FROM before"
    ),
    "total_messages": _count("call_messages"),
    "total_user_messages": _count("call_messages", "role = 'user'"),
    "total_assistant_messages": _count("call_messages", "role = 'assistant'"),
    "total_transitions": _count("call_transitions"),
    "total_interruptions": _count("call_user_interruptions"),
    "total_rag_retrievals": _count("call_rag_retrievals"),
    "total_rag_chunks": _count("call_rag_chunks"),
    "total_extractions": _count("call_extracted_variables"),
    "total_tool_calls": _count("call_tool_calls"),
    "avg_stt_delay_ms": _metric("stt_delay"),
    "avg_llm_ttfb_ms": _metric("llm_ttfb"),
    "avg_llm_processing_ms": _metric("llm_processing_time"),
    "avg_tts_ttfb_ms": _metric("tts_ttfb"),
    "avg_user_to_bot_latency_ms": _metric("user_to_bot_latency"),
    "p95_user_to_bot_latency_ms": _metric("user_to_bot_latency", "percentile_cont(0.95) WITHIN GROUP (ORDER BY value)"),
    "max_user_to_bot_latency_ms": _metric("user_to_bot_latency", "max(value)"),
    "avg_rag_processing_ms": _mean_time("call_rag_retrievals", "rag_processing_time"),
    "avg_extraction_ms": _mean_time("call_extracted_variables", "variable_extraction_time"),
    "total_prompt_tokens": _metric("llm_prompt_tokens", _WHOLE),
    "total_completion_tokens": _metric("llm_completion_tokens", _WHOLE),
    "total_llm_tokens": (
        f"SELECT sum(tokens) FROM (VALUES (({_metric('llm_prompt_tokens', _WHOLE)})), "  # noqa: S608
        f"(({_metric('llm_completion_tokens', _WHOLE)}))) AS kinds (tokens)"
    ),
    "total_tts_characters": _metric("tts_characters", _WHOLE),
    "total_cost_cents": (
        "SELECT total_cost_cents FROM (SELECT currency, total_cost_cents, count(*) OVER () AS currencies "
        "FROM call_cost_breakdowns WHERE session_id = call.id AND by_service <> '{}') AS sums "
        "WHERE currency = 'USD' OR currencies = 1"
    ),
}
