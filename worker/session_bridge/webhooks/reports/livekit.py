"""LiveKit's session report, which an agent makes when its session is over: `ctx.make_session_report().to_dict()`.

Fields: `SessionReport.to_dict` in livekit-agents 1.8 (voice/report.py), `ChatContext.to_dict` (llm/chat_context.py) and
the events of voice/events.py. Times are in seconds since 1970, delays in seconds. Items of the chat have ids of their
own, under which the recorder's adapter records them too: a call that has both is told once.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.vocabulary import Status
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports.fields import ReportFields, later, to_ms
from session_bridge.webhooks.reports.parts import Part, as_number

_DELAYS = {
    "transcription_delay": "transcription_delay",
    "end_of_turn_delay": "end_of_turn_delay",
    "llm_node_ttft": "llm_ttfb",
    "tts_node_ttfb": "tts_ttfb",
    "e2e_latency": "e2e_latency",
}
_USAGE = {
    ("llm_usage", "input_tokens"): ("llm_prompt_tokens", "tokens"),
    ("llm_usage", "input_cached_tokens"): ("llm_cached_prompt_tokens", "tokens"),
    ("llm_usage", "output_tokens"): ("llm_completion_tokens", "tokens"),
    ("tts_usage", "characters_count"): ("tts_characters", "characters"),
    ("tts_usage", "audio_duration"): ("tts_audio_seconds", "seconds"),
    ("stt_usage", "audio_duration"): ("stt_audio_seconds", "seconds"),
}
_ROLES = frozenset(("user", "assistant", "system", "developer"))


def understand(body: Mapping[str, JsonValue]) -> list[News]:
    """What a session report says of its room's call. Raises UnreadableReportError if it names none.

    The call is the room's session (`room_id`), as in LiveKit's webhooks; a session without a room is its job.
    """
    whole = Part(body)
    report = ReportFields("livekit", whole.text("room_id") or whole.text("job_id"), "room_id (or job_id)")
    ended_at = whole.look_moment("timestamp")
    milliseconds = whole.look_number("duration_ms")
    seconds = whole.look_number("duration") if milliseconds is None else milliseconds / 1000
    began = whole.moment("started_at") or later(ended_at, None if seconds is None else -seconds)
    report.state(
        room_name=whole.text("room"),
        agent_name=whole.text("agent_name"),
        started_at=began,
        ended_at=whole.moment("timestamp"),
    )
    history = whole.part("chat_history")
    items = history.items("items")
    spoken = _items(report, items)
    _events(report, whole, items)
    word = whole.text("close_reason")
    if word is not None:
        report.ended(word, spoken=spoken)
    elif "status" not in report.fields:
        report.status(Status.COMPLETED)
    _usage(report, whole.items("usage") or whole.items("model_usage"), ended_at)
    report.recording(
        "mixed", whole.text("audio_recording_path"), timestamp=whole.look_moment("audio_recording_started_at")
    )
    report.kept("session_report", whole.rest())
    return [report.news(ended=True, reason="session report")]


# -- what was said ----------------------------------------------------------------------------------------------------


def _items(report: ReportFields, items: list[JsonValue]) -> bool:
    tools: dict[str, dict[str, JsonValue]] = {}
    turns = 0
    user_spoke = False
    for place, item in enumerate(items, 1):
        part = Part(item)
        kind = part.look_text("type")
        name = part.look_text("id") or f"{place:06}"
        if kind == "message" and part.look_text("role") in _ROLES:
            turns += part.look_text("role") in ("user", "assistant")
            user_spoke = user_spoke or part.look_text("role") == "user"
            _message(report, part, name, turns)
        elif kind == "function_call" and part.look_text("name"):
            key = part.look_text("call_id") or name
            while key in tools:
                key += "."
            tools[key] = _tool_call(part)
        elif kind == "function_call_output" and _tool_output(part, tools):
            pass
        elif kind == "agent_handoff" and part.look_text("new_agent_id"):
            _handoff(report, part, name)
        else:
            report.kept(f"item-{name}", item)
    for key, tool in tools.items():
        report.event(Family.TOOL, key, tool)
    return user_spoke


def _message(report: ReportFields, part: Part, name: str, turn: int) -> None:
    part.forget("type", "message")
    part.text("id")
    pieces = part.items("content") or [part.take("content")]
    texts = [piece for piece in pieces if isinstance(piece, str)]
    part.give_back("content", [piece for piece in pieces if not isinstance(piece, str | None)])
    interrupted = part.flag("interrupted")
    metrics = part.part("metrics")
    when = part.moment("created_at")
    for delay, metric in _DELAYS.items():
        seconds = metrics.number(delay)
        report.metric(f"{metric}-{name}", metric, seconds, "s", timestamp=when, message_id=name)
        if delay == "e2e_latency":
            # What the dashboards call it: from the user's last word to the agent's first.
            metric = "user_to_bot_latency"  # noqa: PLW2901  # the same measurement by its other name
            report.metric(f"{metric}-{name}", metric, seconds, "s", timestamp=when, message_id=name)
    report.event(
        Family.MESSAGE,
        name,
        {
            "role": part.take("role"),
            "content": "\n".join(texts),
            "timestamp": when,
            "was_interrupted": interrupted,
            "confidence": part.number("transcript_confidence"),
            "livekit": part.rest(),
        },
    )
    if interrupted:
        report.event(Family.INTERRUPTION, name, {"interrupted_at_turn": turn, "timestamp": when})


def _tool_call(part: Part) -> dict[str, JsonValue]:
    part.forget("type", "function_call")
    return {
        "name": part.text("name"),
        "arguments": part.take("arguments"),
        "timestamp": part.moment("created_at"),
        "tool_call_id": part.text("call_id"),
        "livekit": part.rest(),
    }


def _tool_output(part: Part, tools: dict[str, dict[str, JsonValue]]) -> bool:
    tool = tools.get(part.look_text("call_id") or "")
    if tool is None or "output" in tool:
        return False
    part.forget("type", "function_call_output")
    part.forget("call_id", tool["tool_call_id"])
    part.forget("name", tool["name"])
    began, ended = as_number(tool.get("timestamp")), part.look_number("created_at")
    if began is not None and ended is not None and ended >= began:
        tool["duration_ms"] = to_ms(ended - began)
    tool["output"] = part.take("output")
    tool["is_error"] = part.flag("is_error")
    tool["result"] = part.rest()
    return True


def _handoff(report: ReportFields, part: Part, name: str) -> None:
    part.forget("type", "agent_handoff")
    part.text("id")
    event: dict[str, JsonValue] = {
        "from_node_id": part.text("old_agent_id"),
        "to_node_id": part.text("new_agent_id"),
        "timestamp": part.moment("created_at"),
        "reason": "handoff",
        "livekit": part.rest(),
    }
    report.event(Family.TRANSITION, name, event)


# -- what happened ----------------------------------------------------------------------------------------------------


def _events(report: ReportFields, whole: Part, items: list[JsonValue]) -> None:
    told: dict[str | None, list[JsonValue]] = {}
    for item in items:
        told.setdefault(Part(item).look_text("id"), []).append(item)
    for place, event in enumerate(whole.items("events"), 1):
        part = Part(event)
        kind = part.look_text("type")
        if kind == "conversation_item_added" and _says_again(part, told):
            continue
        if kind == "close":
            report.state(error_message=part.part("error").look_text("message"))
            reason = part.look_text("reason")
            if reason is not None and whole.look_text("close_reason") is None:
                report.ended(reason, spoken=True)
        if isinstance(event, dict) and (when := part.look_moment("created_at")) is not None:
            event = {"timestamp": when, **event}  # noqa: PLW2901  # by which the archive orders events
        report.kept(f"event-{place:06}", event)


def _says_again(added: Part, told: Mapping[str | None, list[JsonValue]]) -> bool:
    """Whether the event only says that an item of the chat came: one of those that are `told`, by their ids.

    The one is written with its empty values, the other without. When the event came about is not told again.
    """
    item = added.look("item")
    if not isinstance(item, dict) or not set(added.names()) <= {"type", "item", "created_at"}:
        return False
    if added.look("created_at") is not None and added.look_number("created_at") is None:
        return False
    return any(
        isinstance(other, dict)
        and all(value in (None, [], {}) or other.get(name) == value for name, value in item.items())
        for other in told.get(Part(item).look_text("id"), ())
    )


def _usage(report: ReportFields, items: list[JsonValue], when: str | float | None) -> None:
    for place, item in enumerate(items, 1):
        part = Part(item)
        kind, provider, model = part.look_text("type"), part.look_text("provider"), part.look_text("model")
        for (usage, amount_name), (metric, unit) in _USAGE.items():
            if usage == kind:
                amount = part.number(amount_name)
                # Named as the recorder's adapter names it, which is told the same sums.
                name = f"{metric}-{provider}-{model}" if provider and model else f"{metric}-{place:04}"
                report.metric(name, metric, amount or None, unit, processor=provider, model=model, timestamp=when)
        report.kept(f"usage-{place:04}", part.rest() if isinstance(item, dict) else item)
