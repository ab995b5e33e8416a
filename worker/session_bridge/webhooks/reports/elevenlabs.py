"""ElevenLabs' post-call webhooks: the transcription, whole, the audio, and a call that could not be started.

Fields: https://elevenlabs.io/docs/eleven-agents/workflows/post-call-webhooks, and the types of `GET
/v1/convai/conversations/{id}` in github.com/elevenlabs/elevenlabs-python, of which the transcription's data are one.
Prices are in USD, `cost` in credits, times and latencies in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import Status
from session_bridge.errors import UnreadableReportError
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports.fields import ReportFields, as_amount, later, to_ms, usd_in_cents
from session_bridge.webhooks.reports.parts import Part, as_number

_LATENCIES = {
    "convai_llm_service_ttfb": "llm_ttfb",
    "convai_tts_service_ttfb": "tts_ttfb",
    "convai_asr_trailing_service_latency": "stt_delay",
}
_TOKENS = {
    "input": "llm_prompt_tokens",
    "input_cache_read": "llm_cached_prompt_tokens",
    "output_total": "llm_completion_tokens",
}
_SUCCESS = {"success": True, "failure": False}


def understand(body: Mapping[str, JsonValue]) -> list[News]:
    """What a post-call webhook says of its conversation. Raises UnreadableReportError if it names none."""
    whole = Part(body)
    kind = whole.text("type")
    if kind is None:
        raise UnreadableReportError("the body is no webhook of ElevenLabs: type is missing or is no text")
    data = whole.part("data")
    report = ReportFields("elevenlabs", data.text("conversation_id"), "data.conversation_id")
    report.state(agent_id=data.text("agent_id"), agent_name=data.text("agent_name"))
    if kind == "post_call_transcription":
        _transcription(report, data, whole.look_number("event_timestamp"))
    elif kind == "post_call_audio":
        # Sound is no record: what its field's name begins with is left behind unless the settings say otherwise.
        report.state(audio_elevenlabs=data.text("full_audio"))
    elif kind == "call_initiation_failure":
        report.ended(data.text("failure_reason"), spoken=False)
        if report.fields["status"] == Status.COMPLETED:
            report.status(Status.FAILED)
    report.kept(kind, {"type": kind, **whole.rest()})
    return [report.news(ended=True, reason=kind)]


def _transcription(report: ReportFields, data: Part, sequence: float | None) -> None:
    metadata = data.part("metadata")
    charging = metadata.part("charging")
    start = metadata.look_moment("start_time_unix_secs")
    _about(report, data, metadata)
    per_turn = charging.part("llm_usage").part("initiated_generation").look_object("model_usage") is None
    spoken = _Transcript(report, start, count_tokens=per_turn).tell(data.items("transcript"))
    report.ended(metadata.text("termination_reason"), spoken=spoken, sequence=sequence)
    if data.look_text("status") == "failed":
        report.status(Status.FAILED, sequence)
    _costs(report, metadata, charging)
    _analysis(report, data)


def _about(report: ReportFields, data: Part, metadata: Part) -> None:
    phone = metadata.part("phone_call")
    direction = phone.text("direction")
    agent, other = phone.text("agent_number"), phone.text("external_number")
    if direction == "outbound":
        agent, other = other, agent
    start = metadata.look_moment("start_time_unix_secs")
    report.state(
        agent_version=data.text("version_id"),
        user_id=data.text("user_id"),
        language=metadata.text("main_language"),
        channel="phone" if direction else None,
        direction=direction,
        from_number=other,
        to_number=agent,
        parent_call_sid=phone.text("call_sid"),
        stream_sid=phone.text("stream_sid"),
        started_at=metadata.moment("start_time_unix_secs"),
        answered_at=metadata.moment("accepted_time_unix_secs"),
        ended_at=later(start, metadata.look_number("call_duration_secs")),
        error_message=metadata.part("error").text("reason"),
    )


class _Transcript:
    """The turns of a conversation. A turn has no id that was always there, so its place is its name."""

    def __init__(self, report: ReportFields, start: str | float | None, *, count_tokens: bool) -> None:
        self._report = report
        self._start = start
        self._count_tokens = count_tokens
        self._node: str | None = None
        self._tools: dict[str, tuple[str, dict[str, JsonValue]]] = {}

    def tell(self, turns: list[JsonValue]) -> bool:
        """Tell all turns; whether the user said anything."""
        user_spoke = False
        for place, item in enumerate(turns, 1):
            part = Part(item)
            user_spoke = user_spoke or (part.look_text("role") == "user" and part.look_text("message") is not None)
            if part.look_text("role") not in ("user", "agent"):
                self._report.kept(f"turn-{place:06}", item)
            else:
                self._turn(part, place)
        for name, tool in self._tools.values():
            self._report.event(Family.TOOL, name, tool)
        return user_spoke

    def _turn(self, part: Part, place: int) -> None:
        seconds = part.look_number("time_in_call_secs")
        when = later(self._start, seconds)
        node = part.part("agent_metadata").look_text("workflow_node_id")
        self._move(node, place, when)
        self._measure(part, place, when)
        self._called(part, place, when)
        self._retrieved(part, place, when)
        if part.look_text("message") is None:
            if part.rest().keys() - {"role", "time_in_call_secs", "agent_metadata"}:
                self._report.kept(f"turn-{place:06}", part.rest())
            return
        message: dict[str, JsonValue] = {
            "role": part.take("role"),
            "content": part.take("message"),
            "timestamp": when,
            "start_ms": None if seconds is None else to_ms(seconds),
            "was_interrupted": part.flag("interrupted"),
            "model": part.text("producing_llm"),
            "node_id": node,
            "elevenlabs": part.rest(),
        }
        self._report.event(Family.MESSAGE, f"{place:06}", message)

    def _move(self, node: str | None, place: int, when: str | None) -> None:
        if node is not None and node != self._node:
            event = {"from_node_id": self._node, "to_node_id": node, "timestamp": when}
            self._report.event(Family.TRANSITION, f"{place:06}", event)
            self._node = node

    def _measure(self, part: Part, place: int, when: str | None) -> None:
        metrics = part.part("conversation_turn_metrics")
        # They lie one deeper than in the documentation's example.
        for within in (metrics, metrics.part("metrics")):
            for name in within.names():
                if within.look_object(name):
                    metric = _LATENCIES.get(name, name)
                    elapsed = within.part(name).number("elapsed_time")
                    self._report.metric(f"{metric}-{place:06}", metric, elapsed, "s", timestamp=when)
        if self._count_tokens:
            _tokens(self._report, part.part("llm_usage").look_object("model_usage"), f"-{place:06}", when)

    def _called(self, part: Part, place: int, when: str | None) -> None:
        left: list[JsonValue] = []
        for number, item in enumerate(part.items("tool_calls"), 1):
            call = Part(item)
            if call.look_text("tool_name") is None:
                left.append(item)
                continue
            call_id = call.text("request_id")
            tool: dict[str, JsonValue] = {
                "name": call.text("tool_name"),
                "arguments": call.take("params_as_json"),
                "timestamp": when,
                "tool_call_id": call_id,
                "elevenlabs": call.rest(),
            }
            name = f"{place:06}-{number}"
            key = call_id or name
            while key in self._tools:
                key += "."
            self._tools[key] = (name, tool)
        part.give_back("tool_calls", left)
        left = []
        for number, item in enumerate(part.items("tool_results"), 1):
            if not self._result(Part(item), f"{place:06}-{number}-result", when):
                left.append(item)
        part.give_back("tool_results", left)

    def _result(self, result: Part, name: str, when: str | None) -> bool:
        call_id = result.look_text("request_id")
        _, tool = self._tools.get(call_id or "", ("", None))
        if tool is None or "output" in tool:
            if result.look_text("tool_name") is None:
                return False
            tool = {"name": result.take("tool_name"), "timestamp": when}
            self._tools[name] = (name, tool)
        else:
            result.forget("tool_name", tool["name"])
            result.forget("request_id", call_id)
        latency = result.number("tool_latency_secs")
        tool["output"] = result.take("result_value")
        tool["is_error"] = result.flag("is_error")
        tool["duration_ms"] = None if latency is None else to_ms(latency)
        tool["result"] = result.rest()
        return True

    def _retrieved(self, part: Part, place: int, when: str | None) -> None:
        found = part.part("rag_retrieval_info")
        query = found.look_text("retrieval_query")
        if query is None:
            return
        latency = found.number("rag_latency_secs")
        chunks: list[JsonValue] = []
        left: list[JsonValue] = []
        for item in found.items("chunks"):
            chunk = Part(item)
            ids = {"chunk_id": chunk.text("chunk_id"), "document_id": chunk.text("document_id")}
            if any(ids.values()):
                chunks.append({**ids, "elevenlabs": chunk.rest()})
            else:
                left.append(item)
        found.give_back("chunks", left)
        event: dict[str, JsonValue] = {
            "query_text": found.text("retrieval_query"),
            "search_mode": "vector",
            "timestamp": when,
            "processing_time_ms": None if latency is None else to_ms(latency),
            "chunks": chunks,
            "elevenlabs": found.rest(),
        }
        for name in list(found.rest()):
            found.take(name)
        self._report.event(Family.RAG, f"{place:06}", event)


def _tokens(report: ReportFields, models: dict[str, JsonValue] | None, after: str, when: str | None) -> None:
    for model, usage in (models or {}).items():
        for name, metric in _TOKENS.items():
            tokens = Part(usage).part(name).look_number("tokens")
            if tokens:
                report.metric(f"{metric}-{model}{after}", metric, tokens, "tokens", model=model, timestamp=when)


def _costs(report: ReportFields, metadata: Part, charging: Part) -> None:
    _tokens(report, charging.part("llm_usage").part("initiated_generation").look_object("model_usage"), "", None)
    total = metadata.look_number("cost_fiat")
    prices = {"llm": charging.look_number("llm_price"), "platform": charging.look_number("platform_price")}
    known = [price for price in prices.values() if price is not None]
    report.state(estimated_cost_cents=usd_in_cents(sum(known) if known and total is None else total))
    if not known:
        prices = {"total": total}
    for service, price in prices.items():
        if (cents := usd_in_cents(price)) is not None:
            report.event(Family.COST, service, {"service": service, "amount_cents": cents})
    credits_ = as_amount(metadata.look_number("cost"))
    if credits_ is not None:
        report.event(Family.COST, "credits", {"service": "elevenlabs", "usage": credits_, "unit": "credits"})


def _analysis(report: ReportFields, data: Part) -> None:
    analysis = data.object("analysis") or {}
    told = Part(analysis)
    collected: dict[str, JsonValue] = {}
    for name, result in (told.look_object("data_collection_results") or {}).items():
        value = result.get("value") if isinstance(result, dict) else result
        if value is not None:
            collected[name] = value
    meanings: dict[str, JsonValue] = {
        "summary": told.look_text("transcript_summary"),
        "success": _SUCCESS.get(told.look_text("call_successful") or ""),
    }
    score = as_number(analysis.get("call_success_score"))
    known = {name: value for name, value in meanings.items() if value is not None and name not in analysis}
    report.state(analysis={**analysis, **known}, collected_data=collected)
    report.metric("call_success_score", "call_success_score", score)
