"""A pipeline of Pipecat without aggregators: frames as services send them go through it, one by one."""

from __future__ import annotations

import asyncio
import sys

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    TranscriptionFrame,
    TTSTextFrame,
)
from pipecat.metrics.metrics import STTUsage, STTUsageMetricsData, TTFBMetricsData, TurnMetricsData
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.tests.utils import SleepFrame, run_test

from session_bridge.adapters.pipecat import RecordingObserver
from session_bridge.recorder import CallRecorder

FRAMES = [
    InterruptionFrame(),  # nobody speaks yet
    TranscriptionFrame("Hello,", "ada", "2026-11-04T10:00:00Z"),
    TranscriptionFrame("who is there?", "ada", "2026-11-04T10:00:01Z"),
    LLMFullResponseStartFrame(),
    LLMTextFrame("This is "),
    LLMTextFrame("Rossi. How can I help?"),
    LLMFullResponseEndFrame(),
    SleepFrame(),
    BotStartedSpeakingFrame(),
    SleepFrame(),
    TTSTextFrame("This is Rossi.", "sentence"),
    SleepFrame(),
    InterruptionFrame(),
    SleepFrame(),
    BotStoppedSpeakingFrame(),
    SleepFrame(),
    TranscriptionFrame("Is it open?", "", "2026-11-04T10:00:05Z"),
    FunctionCallInProgressFrame("opening_hours", "call_1", {"day": "today"}),
    SleepFrame(),
    FunctionCallCancelFrame("opening_hours", "call_1"),
    MetricsFrame(
        [
            TTFBMetricsData(processor="AnEarSTTService#0", value=0.25),
            TTFBMetricsData(processor="Something#0", value=0.0),
            STTUsageMetricsData(processor="AnEarSTTService#0", value=STTUsage(audio_seconds=2.5)),
            TurnMetricsData(processor="Turns#0", is_complete=True, probability=0.9, e2e_processing_time_ms=40.0),
        ]
    ),
    ErrorFrame("the model is away"),
    SleepFrame(),
    InterruptionFrame(),  # nobody speaks any more
    SleepFrame(),
    TTSTextFrame("Goodbye.", "sentence"),
    SleepFrame(),
    BotStoppedSpeakingFrame(),
    SleepFrame(),
]


async def main(sid: str) -> None:
    observer = RecordingObserver(CallRecorder(sid, provider="pipecat"))
    await run_test(IdentityFilter(), frames_to_send=FRAMES, observers=[observer], start_timeout=20)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
