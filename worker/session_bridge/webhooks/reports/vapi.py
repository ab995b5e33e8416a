"""Vapi's server messages: the end-of-call report, whole, and the others as far as they tell where a call stands.

Fields: https://docs.vapi.ai/server-url/events and the schemas of its OpenAPI document. Costs are in USD, latencies in
milliseconds, `time` and `endTime` in milliseconds since 1970, `secondsFromStart` in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import chain

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import Status, status_of
from session_bridge.errors import UnreadableReportError
from session_bridge.recorder.snapshot import json_bytes
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports.fields import ReportFields, as_amount, to_ms, usd_in_cents
from session_bridge.webhooks.reports.parts import Part, as_number

REPORT = "end-of-call-report"
_SPEAKERS = frozenset(("user", "assistant", "bot", "system"))
_TURN_LATENCIES = {
    "turnLatency": "user_to_bot_latency",
    "modelLatency": "llm_ttfb",
    "voiceLatency": "tts_ttfb",
    "transcriberLatency": "stt_delay",
    "endpointingLatency": "end_of_turn_delay",
}
_TOKENS = {
    "llmPromptTokens": "llm_prompt_tokens",
    "llmCompletionTokens": "llm_completion_tokens",
    "llmCachedPromptTokens": "llm_cached_prompt_tokens",
    "ttsCharacters": "tts_characters",
}
_COST_TOKENS = {
    "promptTokens": "llm_prompt_tokens",
    "completionTokens": "llm_completion_tokens",
    "cachedPromptTokens": "llm_cached_prompt_tokens",
}
_SERVICES = ("transport", "stt", "llm", "tts", "vapi", "chat")
_SUCCESS = {"true": True, "pass": True, "false": False, "fail": False}


def understand(body: Mapping[str, JsonValue]) -> list[News]:
    """What a server message says of its call. Raises UnreadableReportError if it names none."""
    whole = Part(body)
    message = whole.part("message") if isinstance(body.get("message"), dict) else whole
    kind = message.text("type")
    if kind is None:
        raise UnreadableReportError("the body is no server message: message.type is missing or is no text")
    call = message.part("call")
    report = ReportFields("vapi", call.text("id"), "message.call.id")
    sequence = message.look_number("timestamp")
    _parties(report, message, call)
    if kind == REPORT:
        _report(report, message, call, sequence)
    elif kind == "status-update":
        _status(report, message, sequence)
    # The report comes once, all others many times in a call.
    name = kind if kind == REPORT else f"{kind}-{hashlib.sha256(json_bytes(body)).hexdigest()[:16]}"
    report.kept(name, {"type": kind, **whole.rest()})
    ended = kind == REPORT or report.fields.get("status") not in (
        None,
        Status.IN_PROGRESS,
        Status.RINGING,
        Status.INITIATED,
    )
    return [report.news(ended=ended, reason=kind)]


def _parties(report: ReportFields, message: Part, call: Part) -> None:
    customer, phone, assistant = message.part("customer"), message.part("phoneNumber"), message.part("assistant")
    kind = call.look_text("type") or ""
    direction = {"inboundPhoneCall": "inbound", "outboundPhoneCall": "outbound"}.get(kind)
    if direction == "inbound":
        report.state(from_number=customer.text("number"), to_number=phone.text("number"))
    elif direction == "outbound":
        report.state(from_number=phone.text("number"), to_number=customer.text("number"))
    report.state(
        direction=direction,
        channel="phone" if direction else "web" if kind == "webCall" else None,
        account_sid=call.text("orgId"),
        parent_call_sid=call.text("phoneCallProviderId"),
        agent_id=call.text("assistantId") or assistant.text("id"),
        agent_name=assistant.text("name"),
        agent_version=message.text("assistantVersion"),
        user_id=customer.text("externalId"),
        metadata=call.object("metadata") or assistant.object("metadata"),
    )


def _status(report: ReportFields, message: Part, sequence: float | None) -> None:
    word = message.look_text("status")
    status = Status.IN_PROGRESS if word == "forwarding" else status_of(word or "")
    if status is Status.COMPLETED:
        # The report, which knows what was said, comes after it.
        report.ended(message.text("endedReason"), spoken=False, sequence=sequence)
    elif status is not None:
        report.status(status, sequence)


def _report(report: ReportFields, message: Part, call: Part, sequence: float | None) -> None:
    artifact = message.part("artifact")
    report.state(
        started_at=message.moment("startedAt") or call.moment("startedAt"),
        ended_at=message.moment("endedAt") or call.moment("endedAt"),
    )
    whole = artifact.look("messages") or message.look("messages")
    spoken = _messages(report, artifact.items("messages") or message.items("messages"))
    message.forget("messages", whole)
    report.ended(message.text("endedReason") or call.text("endedReason"), spoken=spoken, sequence=sequence)
    for name in ("transcript", "recordingUrl", "stereoRecordingUrl", "videoRecordingUrl"):
        message.forget(name, artifact.look(name))
    _nodes(report, artifact)
    _metrics(report, artifact.part("performanceMetrics"))
    _costs(report, message, call)
    _recordings(report, artifact, message)
    _analysis(report, message.part("analysis"), artifact, message)
    for place, transfer in enumerate(artifact.items("transfers"), 1):
        report.kept(f"transfer-{place:04}", transfer)


# -- what was said ----------------------------------------------------------------------------------------------------


def _messages(report: ReportFields, items: list[JsonValue]) -> bool:
    """The messages and tool calls; whether the user said anything."""
    tools: dict[str, dict[str, JsonValue]] = {}
    user_spoke = False
    for place, item in enumerate(items, 1):
        part = Part(item)
        role = part.look_text("role")
        if role == "tool_calls":
            _tool_calls(part, place, tools)
            # What is no time is kept as it came, as is what should be a number and is none.
            known = {"role", *(["time"] if part.look_moment("time") is not None else [])}
            known |= {name for name in ("time", "secondsFromStart") if isinstance(part.look(name), int | float)}
            if rest := _but(part.rest(), *known):
                report.kept(f"item-{place:04}", {"role": role, **rest})
        elif role == "tool_call_result":
            _tool_result(part, place, tools)
        elif role in _SPEAKERS and isinstance(part.look("message"), str):
            _said(report, part, place)
            user_spoke = user_spoke or role == "user"
        else:
            report.kept(f"item-{place:04}", item)
    for name, tool in tools.items():
        report.event(Family.TOOL, name, tool)
    return user_spoke


def _said(report: ReportFields, part: Part, place: int) -> None:
    start, end = part.number("secondsFromStart"), part.look_number("endTime")
    time = part.look_number("time")
    start_ms = None if start is None else to_ms(start)
    report.event(
        Family.MESSAGE,
        f"{place:06}",
        {
            "role": part.take("role"),
            "content": part.take("message"),
            "timestamp": part.moment("time"),
            "start_ms": start_ms,
            "end_ms": None if start_ms is None or time is None or end is None else start_ms + end - time,
            "speaker": part.text("speakerLabel") or part.text("assistantName"),
            "vapi": part.rest(),
        },
    )


def _tool_calls(part: Part, place: int, tools: dict[str, dict[str, JsonValue]]) -> None:
    left: list[JsonValue] = []
    for number, item in enumerate(part.items("toolCalls"), 1):
        call = Part(item)
        function = call.part("function")
        name = function.text("name")
        if name is None:
            left.append(item)
            continue
        call_id = call.text("id")
        key = call_id or f"{place:06}-{number}"
        while key in tools:
            key += "."
        tools[key] = {
            "name": name,
            "arguments": function.take("arguments"),
            "timestamp": part.look_moment("time"),
            "tool_call_id": call_id,
            "vapi": call.rest(),
        }
    part.give_back("toolCalls", left)


def _tool_result(part: Part, place: int, tools: dict[str, dict[str, JsonValue]]) -> None:
    call_id = part.look_text("toolCallId")
    tool = tools.get(call_id or "")
    if tool is None or "output" in tool:
        key = f"{place:06}-result"
        tool = tools[key] = {"name": part.text("name") or "unknown", "timestamp": part.moment("time")}
    else:
        part.forget("name", tool["name"])
        part.forget("toolCallId", call_id)
        began, ended = as_number(tool.get("timestamp")), part.look_number("time")
        if began is not None and ended is not None and ended >= began:
            tool["duration_ms"] = ended - began
    tool["output"] = part.take("result")
    part.forget("role", "tool_call_result")
    if rest := part.rest():
        tool["result"] = rest


def _nodes(report: ReportFields, artifact: Part) -> None:
    """The nodes of a workflow, or the assistants of a squad, each a transition from the one before it."""
    before: str | None = None
    items = artifact.items("nodes")
    kind = "node" if items else "assistant"
    for place, item in enumerate(items or artifact.items("assistantActivations"), 1):
        part = Part(item)
        name = part.text("nodeName") if kind == "node" else part.text("assistantName")
        if name is None:
            report.kept(f"{kind}-{place:04}", item)
            continue
        node_id = name if kind == "node" else part.text("assistantId") or name
        first = Part(next(iter(part.look_items("messages")), None))
        event: dict[str, JsonValue] = {
            "from_node_id": before,
            "to_node_id": node_id,
            "to_node_name": name,
            "timestamp": first.moment("time"),
            "vapi": part.rest(),
        }
        report.event(Family.TRANSITION, f"{place:06}", event)
        before = node_id


# -- what was measured ------------------------------------------------------------------------------------------------


def _metrics(report: ReportFields, metrics: Part) -> None:
    turns = metrics.items("turnLatencies")
    for place, item in enumerate(turns, 1):
        part = Part(item)
        for name, metric in _TURN_LATENCIES.items():
            report.metric(f"{metric}-{place:06}", metric, part.number(name), "ms", turn_number=place)
        report.kept(f"turn-latency-{place:04}", part.rest() if isinstance(item, dict) else item)
    for name in filter(None, metrics.names()):
        value = metrics.look_number(name)
        plain = name.removesuffix("Average")
        if plain == name or turns:
            # An average beside the values it is of would count twice under their name.
            report.metric(name, name, metrics.number(name), "count" if name.startswith("num") else "ms")
        elif value is not None:
            report.metric(name, _TURN_LATENCIES.get(plain, name), metrics.number(name), "ms")


def _costs(report: ReportFields, message: Part, call: Part) -> None:
    breakdown = message.part("costBreakdown")
    if not breakdown.names():
        breakdown = call.part("costBreakdown")
    report.state(estimated_cost_cents=usd_in_cents(message.look_number("cost")))
    counted = {name for name in _TOKENS if breakdown.look_number(name) is not None}
    for name in sorted(counted):
        report.metric(name, _TOKENS[name], breakdown.look_number(name))
    items = message.items("costs") or call.items("costs")
    charged = [_cost(report, Part(item), place, item, bool(counted)) for place, item in enumerate(items, 1)]
    if not any(charged):
        parts = [(name, breakdown.look_number(name)) for name in _SERVICES]
        if not any(amount is not None for _, amount in parts):
            parts = [("total", message.look_number("cost"))]
        for name, amount in parts:
            if (cents := usd_in_cents(amount)) is not None:
                report.event(Family.COST, name, {"service": name, "amount_cents": cents})


def _cost(report: ReportFields, part: Part, place: int, item: JsonValue, counted: bool) -> bool:  # noqa: FBT001
    service, cents = part.look_text("type"), usd_in_cents(part.look_number("cost"))
    if service is None or cents is None:
        report.kept(f"cost-{place:04}", item)
        return False
    used = next(((name, part.look_number(name)) for name in ("minutes", "characters") if part.look_number(name)), None)
    if not counted and service == "model":
        for name, metric in _COST_TOKENS.items():
            report.metric(f"{metric}-{place:04}", metric, part.look_number(name))
    if not counted and service == "voice":
        report.metric(f"tts_characters-{place:04}", "tts_characters", part.look_number("characters"))
    what = next((part.part(name) for name in ("model", "voice", "transcriber") if part.part(name).names()), Part())
    event: dict[str, JsonValue] = {
        "service": part.text("type"),
        "amount_cents": cents,
        "usage": as_amount(used[1]) if used else None,
        "unit": used[0] if used else None,
        "provider": what.text("provider") or part.text("provider"),
        "model": what.text("model"),
        "vapi": part.rest(),
    }
    report.event(Family.COST, f"{place:04}-{service}", event)
    return True


def _recordings(report: ReportFields, artifact: Part, message: Part) -> None:
    recording = artifact.part("recording")
    mono = recording.part("mono")
    found = {
        "mono": mono.text("combinedUrl"),
        "stereo": recording.text("stereoUrl"),
        "assistant": mono.text("assistantUrl"),
        "customer": mono.text("customerUrl"),
        "video": recording.text("videoUrl"),
    }
    older = {"mono": "recordingUrl", "stereo": "stereoRecordingUrl", "video": "videoRecordingUrl"}
    for (track, name), part in chain.from_iterable(((pair, artifact), (pair, message)) for pair in older.items()):
        if found[track] is None:
            found[track] = part.text(name)
        else:
            part.forget(name, found[track])
    for track, url in found.items():
        channels = {"stereo": 2, "video": None}.get(track, 1)
        report.recording(track, url, channels=channels)


def _analysis(report: ReportFields, analysis: Part, artifact: Part, message: Part) -> None:
    collected = analysis.look_object("structuredData") or {}
    for name, output in (artifact.look_object("structuredOutputs") or {}).items():
        known = Part(output)
        collected[known.look_text("name") or name] = known.look("result") if isinstance(output, dict) else output
    word = analysis.look("successEvaluation")
    success = _SUCCESS.get(word.strip().lower()) if isinstance(word, str) else word if isinstance(word, bool) else None
    told = analysis.rest()
    for name in list(told):
        analysis.take(name)
    message.forget("summary", told.get("summary"))
    if success is not None and "success" not in told:
        told["success"] = success
    report.state(analysis=told, collected_data=collected)


def _but(rest: dict[str, JsonValue], *names: str) -> dict[str, JsonValue]:
    """`rest`, unless nothing but these is left."""
    return rest if rest.keys() - set(names) else {}
