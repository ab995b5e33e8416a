"""Recording an `AgentSession` of LiveKit Agents: what is said, called, measured and handed over, and the end.

The ids of messages, calls and handoffs are LiveKit's own, and metrics are named by them: a session report of the same
session, understood by `session_bridge.webhooks.reports.livekit`, says the same events again and doubles none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

try:
    from livekit.agents import (
        AgentHandoff,
        AgentSession,
        ChatMessage,
        CloseEvent,
        ConversationItemAddedEvent,
        ErrorEvent,
        FunctionToolsExecutedEvent,
        SessionUsageUpdatedEvent,
        UserInputTranscribedEvent,
        get_job_context,
    )
except ImportError as error:
    raise ImportError("to record LiveKit Agents: pip install 'call-session-bridge[livekit-agents]'") from error

from session_bridge.recorder import CallRecorder

_logger = logging.getLogger("session_bridge.adapters")

_Event = TypeVar("_Event")
_DELAYS = {
    "transcription_delay": ("transcription_delay",),
    "end_of_turn_delay": ("end_of_turn_delay",),
    "llm_node_ttft": ("llm_ttfb",),
    "tts_node_ttfb": ("tts_ttfb",),
    # What the dashboards call it: from the user's last word to the agent's first.
    "e2e_latency": ("e2e_latency", "user_to_bot_latency"),
}
_USAGE = {
    ("llm_usage", "input_tokens"): ("llm_prompt_tokens", "tokens"),
    ("llm_usage", "input_cached_tokens"): ("llm_cached_prompt_tokens", "tokens"),
    ("llm_usage", "output_tokens"): ("llm_completion_tokens", "tokens"),
    ("tts_usage", "characters_count"): ("tts_characters", "characters"),
    ("tts_usage", "audio_duration"): ("tts_audio_seconds", "seconds"),
    ("stt_usage", "audio_duration"): ("stt_audio_seconds", "seconds"),
}


def record(session: AgentSession[Any], call: CallRecorder) -> Recording:
    """Record `session` into `call` from now on, and end the call when the session closes.

    Call it before `session.start`, inside the job's event loop. In a job, the process waits for the last write before
    it goes; elsewhere, wait for `Recording.ended`. Nothing that is recorded delays the session or raises in it.
    """
    recording = Recording(session, call)
    job = get_job_context(required=False)
    if job is not None:

        async def finish() -> None:
            await recording.ended()

        job.add_shutdown_callback(finish)
    return recording


class Recording:
    """The recording of one session."""

    def __init__(self, session: AgentSession[Any], call: CallRecorder) -> None:
        self._call = call
        self._turns = 0
        self._end: asyncio.Task[bool] | None = None
        self._handlers: dict[str, Callable[..., None]] = {
            "conversation_item_added": self._added,
            "function_tools_executed": self._executed,
            "session_usage_updated": self._used,
            "user_input_transcribed": self._heard,
            "error": self._failed,
            "close": self._closed,
        }
        for name, handler in self._handlers.items():
            session.on(name, _quiet(handler))

    async def ended(self) -> bool:
        """Wait until all of the call is written, ending it if its session did not close; True if Redis has it.

        Takes five seconds at most.
        """
        if self._end is None:
            return await self._call.disconnected(reason="the session did not close")
        return await self._end

    # -- what is said and done ------------------------------------------------------------------------------------

    def _added(self, event: ConversationItemAddedEvent) -> None:
        item = event.item
        if isinstance(item, ChatMessage):
            self._message(item)
        elif isinstance(item, AgentHandoff):
            self._call.record_transition(
                item.new_agent_id,
                event_id=item.id,
                timestamp=item.created_at,
                from_node_id=item.old_agent_id,
                reason="handoff",
            )

    def _message(self, item: ChatMessage) -> None:
        metrics = dict(item.metrics)
        for name, metric_types in _DELAYS.items():
            seconds = metrics.pop(name, None)
            for metric_type in metric_types if seconds is not None else ():
                self._call.record_metric(
                    metric_type,
                    seconds,
                    unit="s",
                    event_id=f"{metric_type}-{item.id}",
                    timestamp=item.created_at,
                    message_id=item.id,
                )
        self._call.record_message(
            item.role,
            item.raw_text_content or "",
            event_id=item.id,
            timestamp=item.created_at,
            was_interrupted=item.interrupted,
            confidence=item.transcript_confidence,
            livekit={"metrics": metrics} if metrics else None,
        )
        self._turns += item.role in ("user", "assistant")
        if item.interrupted:
            self._call.record_user_interruption(self._turns, event_id=item.id, timestamp=item.created_at)

    def _executed(self, event: FunctionToolsExecutedEvent) -> None:
        for call, output in event.zipped():
            self._call.record_tool_call(
                call.name,
                arguments=call.arguments,
                output=output.output,
                event_id=call.call_id,
                timestamp=call.created_at,
                is_error=output.is_error,
                duration_ms=max(0.0, output.created_at - call.created_at) * 1000,
                tool_call_id=call.call_id,
            )

    def _heard(self, event: UserInputTranscribedEvent) -> None:
        if event.is_final and event.language:
            self._call.set(language=str(event.language))

    # -- what is measured -----------------------------------------------------------------------------------------

    def _used(self, event: SessionUsageUpdatedEvent) -> None:
        # It is the sum so far: each time the metric is the same one, with its newest value.
        for usage in event.usage.model_usage:
            for (kind, name), (metric_type, unit) in _USAGE.items():
                amount = getattr(usage, name, 0) if usage.type == kind else 0
                if amount:
                    self._call.record_metric(
                        metric_type,
                        amount,
                        unit=unit,
                        event_id=f"{metric_type}-{usage.provider}-{usage.model}",
                        processor=usage.provider,
                        model=usage.model,
                    )

    # -- the end --------------------------------------------------------------------------------------------------

    def _failed(self, event: ErrorEvent) -> None:
        if not getattr(event.error, "recoverable", True):
            self._call.set(error_message=str(getattr(event.error, "error", event.error)))

    def _closed(self, event: CloseEvent) -> None:
        if self._end is None:
            reason = str(event.reason.value)
            status = "failed" if reason == "error" else None
            end = self._call.end(reason=f"session closed: {reason}", status=status, end_reason=reason)
            self._end = asyncio.get_running_loop().create_task(end)


def _quiet(handler: Callable[[_Event], None]) -> Callable[[_Event], None]:
    """`handler`, of which a failure is a line in the log and no more: the call goes on."""

    def handle(event: _Event) -> None:
        try:
            handler(event)
        except Exception as error:  # noqa: BLE001  # whatever a version to come sends
            _logger.warning("an event of LiveKit was not recorded: %s: %s", type(event).__name__, type(error).__name__)

    return handle
