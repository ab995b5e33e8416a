"""Recording a pipeline of Pipecat: an observer of what is heard, said, called, measured and interrupted, and the end.

An observer sees frames pass and changes none. A turn of either side is one message: the same event is recorded again
when more is known of it, and in the end with the text that the context aggregator took, if the pipeline has one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

try:
    from pipecat.frames.frames import (
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
        CancelFrame,
        EndFrame,
        ErrorFrame,
        Frame,
        FunctionCallCancelFrame,
        FunctionCallInProgressFrame,
        FunctionCallResultFrame,
        InterruptionFrame,
        LLMContextAssistantTurnFrame,
        LLMContextUserTurnFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        MetricsFrame,
        TranscriptionFrame,
        TTSTextFrame,
        UserStoppedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
    )
    from pipecat.metrics.metrics import (
        LLMUsageMetricsData,
        MetricsData,
        ProcessingMetricsData,
        STTUsageMetricsData,
        TextAggregationMetricsData,
        TTFAMetricsData,
        TTFATMetricsData,
        TTFBMetricsData,
        TTSUsageMetricsData,
        TurnMetricsData,
    )
    from pipecat.observers.base_observer import BaseObserver, FramePushed
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.services.llm_service import LLMService
    from pipecat.services.stt_service import STTService
    from pipecat.services.tts_service import TTSService
except ImportError as error:
    raise ImportError("to record Pipecat: pip install 'call-session-bridge[pipecat]'") from error

from session_bridge.recorder import CallRecorder

_logger = logging.getLogger("session_bridge.adapters")

_FIRST_BYTE = {"llm": "llm_ttfb", "tts": "tts_ttfb", "stt": "stt_delay"}
_SERVICES = {"llm": LLMService, "tts": TTSService, "stt": STTService}
_NS_IN_MS = 1_000_000


@dataclass(slots=True)
class _Turn:
    """What one side says, until the other one does."""

    began: datetime | None = None
    event_id: str | None = None
    number: int = 0
    heard: str = ""
    """What a transcriber heard, or a language model wrote."""
    spoken: str = ""
    """What a voice has said of it: less, if it was interrupted."""
    done: bool = False
    interrupted: bool = False
    speaker: str | None = None


class RecordingObserver(BaseObserver):  # type: ignore[misc]  # its package is not installed where types are checked
    """Records what passes through a pipeline into a call, and ends the call with the pipeline.

    Give it to the `PipelineWorker` as one of its `observers`, and set `enable_metrics` and `enable_usage_metrics` in
    its parameters for the measurements. Nothing that is recorded delays a frame, and no failure reaches the pipeline.
    """

    def __init__(self, call: CallRecorder, **options: Any) -> None:  # noqa: ANN401  # the base class's own
        """Make the observer that records into `call`, inside the event loop of its pipeline."""
        super().__init__(observe_every_push=False, **options)
        self._call = call
        # The turn that goes on, and the one before it, of which an aggregator may still have to say what it took.
        self._user = _Turn()
        self._user_before = _Turn()
        self._assistant = _Turn()
        self._assistant_before = _Turn()
        self._aggregated = False
        self._turns = 0
        self._user_stopped: int | None = None
        self._tools: dict[str, tuple[datetime, int, object]] = {}
        self._end: Frame | None = None

    async def on_pipeline_started(self) -> None:
        """The call begins with the pipeline, and not with its first word."""
        self._call.heartbeat()

    async def on_push_frame(self, data: FramePushed) -> None:
        """Record what the frame says."""
        # A frame that is broadcast travels in both directions, as two frames.
        if data.frame.broadcast_sibling_id is not None and data.direction != FrameDirection.DOWNSTREAM:
            return
        try:
            self._record(data)
        except Exception as error:  # noqa: BLE001  # it would end the observer, and nothing more would be recorded
            frame = type(data.frame).__name__
            _logger.warning("a frame of Pipecat was not recorded: %s: %s", frame, type(error).__name__)

    async def cleanup(self) -> None:
        """End the call, when the pipeline is torn down: waits five seconds at most for the last write."""
        await super().cleanup()
        self._write_assistant()
        if isinstance(self._end, EndFrame):
            await self._call.end(reason="pipeline ended")
        elif isinstance(self._end, CancelFrame):
            await self._call.end(reason="pipeline cancelled")
        else:
            await self._call.disconnected(reason="the pipeline stopped without an end")

    def _record(self, data: FramePushed) -> None:
        frame = data.frame
        if isinstance(frame, MetricsFrame):
            for metric in frame.data:
                self._measure(metric, data.source)
        elif isinstance(frame, FunctionCallInProgressFrame | FunctionCallResultFrame | FunctionCallCancelFrame):
            self._tool(frame, data.timestamp)
        elif isinstance(frame, EndFrame | CancelFrame):
            self._end = frame
        elif isinstance(frame, ErrorFrame):
            self._call.set(error_message=frame.error)
        elif isinstance(frame, InterruptionFrame):
            self._interrupt()
        elif not self._turn_goes_over(frame, data.timestamp):
            self._say(frame)

    # -- whose turn it is -----------------------------------------------------------------------------------------

    def _turn_goes_over(self, frame: Frame, now: int) -> bool:
        if isinstance(frame, BotStartedSpeakingFrame):
            if self._user_stopped is not None:
                waited = (now - self._user_stopped) / _NS_IN_MS
                self._call.record_metric("user_to_bot_latency", waited, unit="ms")
                self._user_stopped = None
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._write_assistant()
            self._assistant.done = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._user_stopped = now - round(frame.stop_secs * 1000 * _NS_IN_MS)
        elif isinstance(frame, UserStoppedSpeakingFrame):
            self._user_stopped = now if self._user_stopped is None else self._user_stopped
        elif isinstance(frame, LLMFullResponseStartFrame):
            self._assistant_before, self._assistant = self._assistant, _Turn()
            # Where an aggregator says when the user's turn is over, it alone does: an answer may begin before.
            if not self._aggregated:
                self._user_before, self._user = self._user, _Turn()
        elif isinstance(frame, LLMFullResponseEndFrame):
            self._write_assistant()
        else:
            return False
        return True

    def _interrupt(self) -> None:
        turn = self._assistant
        if turn.done or not (turn.heard or turn.spoken):
            # Each turn of the user begins with one, also where nobody was speaking.
            return
        turn.interrupted = True
        self._write_assistant()
        turn.done = True
        self._call.record_user_interruption(turn.number, event_id=turn.event_id)

    # -- what is said ---------------------------------------------------------------------------------------------

    def _say(self, frame: Frame) -> None:
        if isinstance(frame, TranscriptionFrame):
            turn = self._user
            turn.heard = _join(turn.heard, frame.text, spaced=False)
            turn.speaker = frame.user_id or None
            self._write("user", turn, turn.heard)
            self._call.set(language=str(frame.language) if frame.language else None)
        elif isinstance(frame, LLMContextUserTurnFrame):
            self._write("user", self._user if self._user.heard else self._user_before, frame.text)
            self._user, self._user_before = _Turn(), _Turn()
            self._aggregated = True
        elif isinstance(frame, TTSTextFrame):
            if self._assistant.done and (self._assistant.interrupted or not self._assistant.heard):
                # Said without a language model, as a greeting is.
                self._assistant = _Turn()
            turn = self._assistant
            turn.spoken = _join(turn.spoken, frame.text, spaced=frame.includes_inter_frame_spaces)
            turn.began = turn.began or _now()
        elif isinstance(frame, LLMTextFrame):
            turn = self._assistant
            turn.heard = _join(turn.heard, frame.text, spaced=frame.includes_inter_frame_spaces)
            turn.began = turn.began or _now()
        elif isinstance(frame, LLMContextAssistantTurnFrame):
            turn = self._assistant if self._assistant.heard or self._assistant.spoken else self._assistant_before
            self._write("assistant", turn, frame.text)
            turn.done = True

    def _write_assistant(self) -> None:
        turn = self._assistant
        # Of a turn that was cut off, what the voice had come to, if it tells.
        texts = (turn.spoken, turn.heard) if turn.interrupted else (turn.heard, turn.spoken)
        self._write("assistant", turn, texts[0] or texts[1])

    def _write(self, role: str, turn: _Turn, text: str) -> None:
        if not text.strip():
            return
        if turn.event_id is None:
            self._turns += 1
            turn.number = self._turns
        # The time of the first word is the turn's, whatever is learnt of it later.
        turn.began = turn.began or _now()
        turn.event_id = self._call.record_message(
            role,
            text,
            event_id=turn.event_id,
            timestamp=turn.began,
            turn_number=turn.number,
            was_interrupted=turn.interrupted if role == "assistant" else None,
            speaker=turn.speaker,
        )

    # -- what is done and measured --------------------------------------------------------------------------------

    def _tool(
        self, frame: FunctionCallInProgressFrame | FunctionCallResultFrame | FunctionCallCancelFrame, now: int
    ) -> None:
        begun = (_now(), now, getattr(frame, "arguments", None))
        when, began, arguments = self._tools.setdefault(frame.tool_call_id, begun)
        result = frame if isinstance(frame, FunctionCallResultFrame) else None
        cancelled = isinstance(frame, FunctionCallCancelFrame)
        self._call.record_tool_call(
            frame.function_name,
            arguments=arguments,
            output=result.result if result else None,
            event_id=frame.tool_call_id,
            timestamp=when,
            is_error=True if cancelled else result.error is not None if result else None,
            duration_ms=(now - began) / _NS_IN_MS if result or cancelled else None,
            tool_call_id=frame.tool_call_id,
            cancelled=cancelled or None,
            error=result.error if result else None,
        )

    def _measure(self, metric: MetricsData, source: object) -> None:
        kind = _kind(metric.processor, source)
        if isinstance(metric, TTFBMetricsData):
            self._metric(metric, _FIRST_BYTE.get(kind, "ttfb"), metric.value, "s")
        elif isinstance(metric, ProcessingMetricsData):
            self._metric(metric, f"{kind}_processing_time" if kind else "processing_time", metric.value, "s")
        elif isinstance(metric, LLMUsageMetricsData):
            usage = metric.value
            self._metric(metric, "llm_prompt_tokens", usage.prompt_tokens, "tokens")
            self._metric(metric, "llm_completion_tokens", usage.completion_tokens, "tokens")
            self._metric(metric, "llm_cached_prompt_tokens", usage.cache_read_input_tokens, "tokens")
        elif isinstance(metric, TTSUsageMetricsData):
            self._metric(metric, "tts_characters", metric.value, "characters")
        elif isinstance(metric, STTUsageMetricsData):
            self._metric(metric, "stt_audio_seconds", metric.value.audio_seconds, "seconds")
        elif isinstance(metric, TTFAMetricsData):
            self._metric(metric, "tts_first_audio", metric.ttfa, "s")
        elif isinstance(metric, TTFATMetricsData):
            self._metric(metric, "llm_first_answer_token", metric.ttfat, "s")
        elif isinstance(metric, TextAggregationMetricsData):
            self._metric(metric, "text_aggregation_time", metric.value, "s")
        elif isinstance(metric, TurnMetricsData):
            self._metric(metric, "end_of_turn_delay", metric.e2e_processing_time_ms, "ms")

    def _metric(self, metric: MetricsData, metric_type: str, value: float | None, unit: str) -> None:
        # A pipeline begins with a zero for each of its processors, which nobody has measured.
        if value:
            if unit == "s":
                value, unit = value * 1000, "ms"
            self._call.record_metric(metric_type, value, unit=unit, processor=metric.processor, model=metric.model)


def _kind(processor: str, source: object) -> str:
    """What kind of service a measurement is of: by the service that reports it, or else by its name."""
    if getattr(source, "name", None) == processor:
        for kind, service in _SERVICES.items():
            if isinstance(source, service):
                return kind
    return next((kind for kind in _SERVICES if f"{kind}service" in processor.lower()), "")


def _join(before: str, text: str, *, spaced: bool) -> str:
    """`text` after `before`, with a blank between them unless their sender sends its own."""
    return before + text if spaced or not before or before[-1].isspace() else f"{before} {text}"


def _now() -> datetime:
    return datetime.now(UTC)
