"""Retell's webhooks: `call_started`, `call_ended`, `call_analyzed`, and the others as far as they name a call.

Fields: https://docs.retellai.com/features/webhook-overview and the types of github.com/RetellAI/retell-python-sdk.
Costs are in cents, latencies in milliseconds, `start` and `end` of a word in seconds since the call began.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import Status
from session_bridge.errors import UnreadableReportError
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports.fields import ReportFields, as_amount, later, to_ms
from session_bridge.webhooks.reports.parts import Part, as_number

# They are sent in this order, whatever the order in which they arrive.
_SEQUENCE = {"call_started": 1, "call_ended": 2, "call_analyzed": 3}
_LATENCIES = {
    "e2e": "user_to_bot_latency",
    "llm": "llm_ttfb",
    "tts": "tts_ttfb",
    "asr": "stt_delay",
    "knowledge_base": "rag_processing_time",
}
_RECORDINGS = {
    "recording_url": ("mono", 1),
    "recording_multi_channel_url": ("multi_channel", 2),
    "scrubbed_recording_url": ("scrubbed", 1),
    "scrubbed_recording_multi_channel_url": ("scrubbed_multi_channel", 2),
}
_SPEAKERS = frozenset(("user", "agent", "transfer_target"))


def understand(body: Mapping[str, JsonValue]) -> list[News]:
    """What a webhook says of its call. Raises UnreadableReportError if it names none."""
    whole = Part(body)
    event = whole.text("event")
    if event is None:
        raise UnreadableReportError("the body is no webhook of Retell: event is missing or is no text")
    call = whole.part("call")
    report = ReportFields("retell", call.text("call_id"), "call.call_id")
    _about(report, call)
    spoken = _transcript(report, call)
    ended = event in ("call_ended", "call_analyzed")
    sequence = _SEQUENCE.get(event)
    if ended:
        word = call.text("disconnection_reason")
        report.ended(word, spoken=spoken, sequence=sequence)
        if call.look_text("call_status") == "error":
            report.status(Status.FAILED, sequence)
    elif event == "call_started":
        report.status(Status.IN_PROGRESS, sequence)
    _metrics(report, call)
    _costs(report, call.part("call_cost"))
    for name, (track, channels) in _RECORDINGS.items():
        report.recording(track, call.text(name), channels=channels)
    _analysis(report, call)
    report.kept(event, {"event": event, **whole.rest()})
    return [report.news(ended=ended, reason=event)]


def _about(report: ReportFields, call: Part) -> None:
    version = call.look("agent_version")
    report.state(
        agent_id=call.text("agent_id"),
        agent_name=call.text("agent_name"),
        agent_version=str(version) if as_number(version) is not None else call.text("agent_version"),
        direction=call.text("direction"),
        channel={"phone_call": "phone", "web_call": "web"}.get(call.look_text("call_type") or ""),
        from_number=call.text("from_number"),
        to_number=call.text("to_number"),
        started_at=call.look_moment("start_timestamp"),
        ended_at=call.moment("end_timestamp"),
        parent_call_sid=call.part("telephony_identifier").text("twilio_call_sid"),
        handoff_status="transferred" if call.look_text("transfer_destination") else None,
        metadata=call.object("metadata"),
    )


# -- what was said ----------------------------------------------------------------------------------------------------


def _transcript(report: ReportFields, call: Part) -> bool:
    """Everything in the order in which it was said and done; whether the user said anything.

    An item has no id but its place, which the next webhook of the same call repeats.
    """
    items = call.items("transcript_with_tool_calls")
    plain = call.look_items("transcript_object")
    if not items:
        items = call.items("transcript_object")
    elif all(item in items for item in plain):
        call.forget("transcript_object", plain)
    began = call.moment("start_timestamp")
    tools: dict[str, tuple[str, dict[str, JsonValue]]] = {}
    user_spoke = False
    for place, item in enumerate(items, 1):
        part = Part(item)
        role = part.look_text("role")
        if role in _SPEAKERS and isinstance(part.look("content"), str):
            _said(report, part, place, began)
            user_spoke = user_spoke or role == "user"
        elif role == "tool_call_invocation" and part.look_text("name"):
            call_id = part.text("tool_call_id")
            tool: dict[str, JsonValue] = {
                "name": part.text("name"),
                "arguments": part.take("arguments"),
                "tool_call_id": call_id,
                "timestamp": later(began, part.look_number("time_sec")),
            }
            part.forget("role", role)
            tool["retell"] = part.rest()
            key = call_id or f"{place:06}"
            while key in tools:
                key += "."
            tools[key] = (f"{place:06}", tool)
        elif role == "tool_call_result" and (found := tools.get(part.look_text("tool_call_id") or "")):
            _tool_result(report, part, place, found[1])
        elif role == "node_transition" and part.look_text("new_node_id"):
            part.forget("role", role)
            transition: dict[str, JsonValue] = {
                "from_node_id": part.text("former_node_id"),
                "from_node_name": part.text("former_node_name"),
                "to_node_id": part.text("new_node_id"),
                "to_node_name": part.text("new_node_name"),
                "condition": part.text("transition_type"),
                "timestamp": later(began, part.look_number("time_sec")),
                "retell": part.rest(),
            }
            report.event(Family.TRANSITION, f"{place:06}", transition)
        else:
            # Keys that were pressed, text messages, and what will be added to them.
            report.kept(f"item-{place:06}", item)
    for name, tool in tools.values():
        report.event(Family.TOOL, name, tool)
    return user_spoke


def _said(report: ReportFields, part: Part, place: int, began: str | float | None) -> None:
    words = part.look_items("words")
    start = Part(words[0]).look_number("start") if words else None
    end = Part(words[-1]).look_number("end") if words else None
    role = part.take("role")
    message: dict[str, JsonValue] = {
        # A person to whom the call was transferred is none of the agent's words.
        "role": "user" if role == "transfer_target" else role,
        "speaker": role if role == "transfer_target" else None,
        "content": part.take("content"),
        "timestamp": later(began, start),
        "start_ms": None if start is None else to_ms(start),
        "end_ms": None if end is None else to_ms(end),
        "retell": part.rest(),
    }
    report.event(Family.MESSAGE, f"{place:06}", message)


def _tool_result(report: ReportFields, part: Part, place: int, tool: dict[str, JsonValue]) -> None:
    if "output" in tool:
        report.kept(f"item-{place:06}", part.rest())
        return
    part.forget("role", "tool_call_result")
    part.forget("tool_call_id", tool["tool_call_id"])
    successful = part.flag("successful")
    tool["output"] = part.take("content")
    tool["is_error"] = None if successful is None else not successful
    tool["result"] = part.rest()


# -- what was measured ------------------------------------------------------------------------------------------------


def _metrics(report: ReportFields, call: Part) -> None:
    latency = call.part("latency")
    for name in latency.names():
        if latency.look_object(name):
            metric = _LATENCIES.get(name, name)
            measured = latency.part(name)
            left = [item for item in measured.look_items("values") if as_number(item) is None]
            for place, value in enumerate(measured.items("values"), 1):
                report.metric(f"{metric}-{place:06}", metric, as_number(value), "ms", processor=f"retell {name}")
            measured.put("values", left)
    usage = call.part("llm_token_usage")
    left = [item for item in usage.look_items("values") if as_number(item) is None]
    for place, value in enumerate(usage.items("values"), 1):
        # Of a request's tokens Retell does not say how many were its prompt.
        report.metric(f"llm_tokens-{place:06}", "llm_tokens", as_number(value), "tokens")
    usage.put("values", left)


def _costs(report: ReportFields, cost: Part) -> None:
    combined = as_amount(cost.look_number("combined_cost"))
    report.state(estimated_cost_cents=combined)
    charged = False
    for place, item in enumerate(cost.items("product_costs"), 1):
        part = Part(item)
        product, amount = part.look_text("product"), part.look_number("cost")
        if product is None or amount is None:
            report.kept(f"cost-{place:04}", item)
            continue
        charged = True
        event: dict[str, JsonValue] = {
            "service": part.text("product"),
            "amount_cents": as_amount(amount),
            "unit_price_cents": as_amount(part.look_number("unit_price")),
            "unit": "second" if part.look_number("unit_price") is not None else None,
            "retell": part.rest(),
        }
        report.event(Family.COST, f"{place:04}-{product}", event)
    if combined is not None and not charged:
        report.event(Family.COST, "total", {"service": "total", "amount_cents": combined})


def _analysis(report: ReportFields, call: Part) -> None:
    analysis = call.object("call_analysis") or {}
    told = Part(analysis)
    custom = told.look_object("custom_analysis_data") or {}
    meanings: dict[str, JsonValue] = {
        "summary": told.look_text("call_summary"),
        "sentiment": told.look_text("user_sentiment"),
        "success": told.look("call_successful"),
    }
    known = {name: value for name, value in meanings.items() if value is not None and name not in analysis}
    report.state(
        analysis={**analysis, **known},
        collected_data={**(call.object("collected_dynamic_variables") or {}), **custom},
    )
