"""The `record_*` methods: one for each family of events, with what it may carry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime

from session_bridge.recorder.moments import MOMENTS
from session_bridge.recorder.snapshot import event_id_of, json_bytes

Time = datetime | str | float
"""A moment: a datetime (without a zone it is UTC), ISO 8601 text, or epoch seconds or milliseconds."""

_MONEY = frozenset(("metric:", "cost:"))


class EventMethods(ABC):
    """Records events. Every method returns the event's id, at once, and never raises because of data or Redis.

    What is recorded is what the values are at the call. A value that JSON has no form for is kept as its text; one
    that is None is left out. `event_id` (a new ULID if it is not given) names the event within its family and call:
    recording the same id again replaces the event. `timestamp` is when it happened, now if not given. Whatever else a
    caller knows of the event goes into further keywords and is kept as it is.
    """

    __slots__ = ()

    @abstractmethod
    def _add_event(self, name: str, value: bytes, at: str) -> None:
        """Take the event `value` for the field `name`, recorded at the time `at`."""

    @abstractmethod
    def _saw_money(self, prefix: str, event_id: str, event: Mapping[str, object]) -> None:
        """Look at an event that may say what the call costs."""

    def record_message(
        self,
        role: str,
        content: str,
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        node_id: str | None = None,
        turn_number: int | None = None,
        was_interrupted: bool | None = None,
        speaker: str | None = None,
        start_ms: float | None = None,
        end_ms: float | None = None,
        confidence: float | None = None,
        audio_url: str | None = None,
        tokens_used: int | None = None,
        model: str | None = None,
        **fields: object,
    ) -> str:
        """Record what was said: `role` is user, assistant, system or tool; `content` may be empty.

        `start_ms` and `end_ms` are milliseconds since the call began.
        """
        event = {
            "timestamp": timestamp,
            "role": role,
            "content": content,
            "node_id": node_id,
            "turn_number": turn_number,
            "was_interrupted": was_interrupted,
            "speaker": speaker,
            "start_ms": start_ms,
            "end_ms": end_ms,
            "confidence": confidence,
            "audio_url": audio_url,
            "tokens_used": tokens_used,
            "model": model,
        }
        return self._record("message:", event, fields, event_id, timestamp)

    def record_transition(
        self,
        to_node_id: str,
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        from_node_id: str | None = None,
        from_node_name: str | None = None,
        to_node_name: str | None = None,
        reason: str | None = None,
        condition: str | None = None,
        turn_number: int | None = None,
        **fields: object,
    ) -> str:
        """Record that the conversation went to another node of its workflow."""
        event = {
            "timestamp": timestamp,
            "to_node_id": to_node_id,
            "from_node_id": from_node_id,
            "from_node_name": from_node_name,
            "to_node_name": to_node_name,
            "reason": reason,
            "condition": condition,
            "turn_number": turn_number,
        }
        return self._record("transition:", event, fields, event_id, timestamp)

    def record_metric(
        self,
        metric_type: str,
        value: float,
        *,
        unit: str | None = None,
        event_id: str | None = None,
        timestamp: Time | None = None,
        processor: str | None = None,
        model: str | None = None,
        turn_number: int | None = None,
        node_id: str | None = None,
        **fields: object,
    ) -> str:
        """Record a measurement. A latency is in milliseconds unless `unit` is "s"."""
        event = {
            "timestamp": timestamp,
            "metric_type": metric_type,
            "value": value,
            "unit": unit,
            "processor": processor,
            "model": model,
            "turn_number": turn_number,
            "node_id": node_id,
        }
        return self._record("metric:", event, fields, event_id, timestamp)

    def record_rag_retrieval(
        self,
        query_text: str,
        *,
        chunks: Sequence[Mapping[str, object]] | None = None,
        event_id: str | None = None,
        timestamp: Time | None = None,
        query_params: Mapping[str, object] | None = None,
        search_mode: str | None = None,
        top_k: int | None = None,
        processing_time_ms: float | None = None,
        node_id: str | None = None,
        turn_number: int | None = None,
        **fields: object,
    ) -> str:
        """Record a query to a knowledge base; `search_mode` is vector, fts or hybrid.

        `chunks` are what was found, best first, each with `chunk_id`, `content`, `document_id`, `filename`, `s3_key`,
        `chunk_index`, `token_count` and `score`, as far as they are known.
        """
        event = {
            "timestamp": timestamp,
            "query_text": query_text,
            "chunks": chunks,
            "query_params": query_params,
            "search_mode": search_mode,
            "top_k": top_k,
            "processing_time_ms": processing_time_ms,
            "node_id": node_id,
            "turn_number": turn_number,
        }
        return self._record("rag:", event, fields, event_id, timestamp)

    def record_variable_extraction(
        self,
        variables_requested: Sequence[str] | Mapping[str, object],
        variables_extracted: Mapping[str, object],
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        success: bool | None = None,
        confidence: float | None = None,
        processing_time_ms: float | None = None,
        node_id: str | None = None,
        turn_number: int | None = None,
        **fields: object,
    ) -> str:
        """Record what was asked of the conversation's text, and what was found there."""
        event = {
            "timestamp": timestamp,
            "variables_requested": variables_requested,
            "variables_extracted": variables_extracted,
            "success": success,
            "confidence": confidence,
            "processing_time_ms": processing_time_ms,
            "node_id": node_id,
            "turn_number": turn_number,
        }
        return self._record("extraction:", event, fields, event_id, timestamp)

    def record_user_interruption(
        self,
        interrupted_at_turn: int,
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        node_id: str | None = None,
        **fields: object,
    ) -> str:
        """Record that the caller spoke while the agent did, in turn `interrupted_at_turn`."""
        event = {"timestamp": timestamp, "interrupted_at_turn": interrupted_at_turn, "node_id": node_id}
        return self._record("interruption:", event, fields, event_id, timestamp)

    def record_tool_call(
        self,
        name: str,
        *,
        arguments: object = None,
        output: object = None,
        event_id: str | None = None,
        timestamp: Time | None = None,
        is_error: bool | None = None,
        duration_ms: float | None = None,
        node_id: str | None = None,
        turn_number: int | None = None,
        **fields: object,
    ) -> str:
        """Record that a tool was called: `arguments` and `output` are JSON values, or text as it came."""
        event = {
            "timestamp": timestamp,
            "name": name,
            "arguments": arguments,
            "output": output,
            "is_error": is_error,
            "duration_ms": duration_ms,
            "node_id": node_id,
            "turn_number": turn_number,
        }
        return self._record("tool:", event, fields, event_id, timestamp)

    def record_participant(
        self,
        identity: str,
        *,
        event_id: str | None = None,
        timestamp: Time | None = None,
        participant_type: str | None = None,
        name: str | None = None,
        user_id: str | None = None,
        joined_at: Time | None = None,
        left_at: Time | None = None,
        is_muted: bool | None = None,
        disconnect_reason: str | None = None,
        **fields: object,
    ) -> str:
        """Record who took part; `participant_type` is user, agent or admin.

        To add when they left, record all of it again with the `event_id` that the first call returned.
        """
        event = {
            "timestamp": timestamp,
            "identity": identity,
            "participant_type": participant_type,
            "name": name,
            "user_id": user_id,
            "joined_at": joined_at,
            "left_at": left_at,
            "is_muted": is_muted,
            "disconnect_reason": disconnect_reason,
        }
        return self._record("participant:", event, fields, event_id, timestamp)

    def record_cost(
        self,
        service: str,
        *,
        amount_cents: float | None = None,
        usage: float | None = None,
        event_id: str | None = None,
        timestamp: Time | None = None,
        unit: str | None = None,
        unit_price_cents: float | None = None,
        currency: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        **fields: object,
    ) -> str:
        """Record a charge, in cents of `currency` (USD if not given), or a usage, in `unit`s, that has a price."""
        event = {
            "timestamp": timestamp,
            "service": service,
            "amount_cents": amount_cents,
            "usage": usage,
            "unit": unit,
            "unit_price_cents": unit_price_cents,
            "currency": currency,
            "provider": provider,
            "model": model,
        }
        return self._record("cost:", event, fields, event_id, timestamp)

    def _record(
        self,
        prefix: str,
        event: Mapping[str, object],
        fields: Mapping[str, object],
        event_id: str | None,
        timestamp: Time | None,
    ) -> str:
        at, new_id = MOMENTS.stamp()
        known = {name: value for name, value in event.items() if value is not None}
        if fields:
            known.update((name, value) for name, value in fields.items() if value is not None)
        if timestamp is None:
            known["timestamp"] = at
        if event_id is not None:
            new_id = event_id_of(event_id)
        self._add_event(prefix + new_id, json_bytes(known), at)
        if prefix in _MONEY:
            self._saw_money(prefix, new_id, event)
        return new_id
