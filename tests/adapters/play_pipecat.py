"""A pipeline of Pipecat, recorded: run by test_pipecat.py in an environment that has the package.

The pipeline, its services' base classes, its aggregators and its output transport are real; only what the services
would ask a vendor for is not: what the ear hears is the audio itself, as text.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    FunctionCallFromLLM,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.metrics.metrics import LLMTokenUsage
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.services.llm_service import FunctionCallParams, LLMService
from pipecat.services.settings import LLMSettings, STTSettings, TTSSettings
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService
from pipecat.transcriptions.language import Language
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

from session_bridge.adapters.pipecat import RecordingObserver
from session_bridge.recorder import CallRecorder

STORY = "This is a long story that nobody wants to hear to its end."


class Ear(STTService):
    async def run_stt(self, audio: bytes) -> AsyncIterator[Frame]:
        await self.stop_processing_metrics()
        yield TranscriptionFrame(audio.decode(), "ada", time_now_iso8601(), Language.EN, finalized=True)


class Model(LLMService):
    async def process_frame(self, frame: Frame, direction: Any) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await self._answer(frame.context)
        else:
            await self.push_frame(frame, direction)

    async def _answer(self, context: LLMContext) -> None:
        last: Any = context.get_messages()[-1]
        await self.push_frame(LLMFullResponseStartFrame())
        await self.start_ttfb_metrics()
        await asyncio.sleep(0.01)
        await self.stop_ttfb_metrics()
        await self.start_llm_usage_metrics(
            LLMTokenUsage(prompt_tokens=20, completion_tokens=5, total_tokens=25, cache_read_input_tokens=4)
        )
        if last["role"] == "tool":
            for piece in ("You are ", "booked. ", "Goodbye."):
                await self.push_frame(LLMTextFrame(piece))
        elif "story" in last["content"]:
            await self.push_frame(LLMTextFrame(STORY))
        elif "table" in last["content"]:
            call = FunctionCallFromLLM("book_table", "call_book", {"party": 2}, context)
            await self.run_function_calls([call])
        await self.push_frame(LLMFullResponseEndFrame())


class Voice(TTSService):
    def can_generate_metrics(self) -> bool:
        return True

    async def run_tts(self, text: str, context_id: str) -> AsyncIterator[Frame]:
        await self.start_tts_usage_metrics(text)
        await self.stop_ttfb_metrics()
        seconds = 20 if text == STORY else 0.2
        yield TTSAudioRawFrame(b"\x00\x00" * int(24000 * seconds), 24000, 1, context_id=context_id)


class Loudspeaker(BaseOutputTransport):
    async def start(self, frame: Any) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: Any) -> bool:
        # As a loudspeaker does, it takes its time.
        await asyncio.sleep(len(frame.audio) / 48000 / 4)
        return True


async def main(sid: str) -> None:
    context = LLMContext([{"role": "system", "content": "You take reservations."}])
    model = Model(settings=LLMSettings(model="model-1"))
    model.can_generate_metrics = lambda: True

    async def book_table(params: FunctionCallParams) -> None:
        await params.result_callback({"booked": True})

    model.register_function("book_table", book_table)
    strategies = UserTurnStrategies(
        start=[VADUserTurnStartStrategy()], stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.05)]
    )
    aggregators = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
    )
    speaker = Loudspeaker(TransportParams(audio_out_enabled=True))
    pipeline = Pipeline(
        [
            Ear(settings=STTSettings(model="ear-1")),
            aggregators.user(),
            model,
            Voice(settings=TTSSettings(model="voice-1", voice="v"), push_start_frame=True, push_stop_frames=True),
            speaker,
            aggregators.assistant(),
        ]
    )

    worker = PipelineWorker(
        pipeline,
        observers=[RecordingObserver(CallRecorder(sid, provider="pipecat"))],
        params=PipelineParams(enable_metrics=True, enable_usage_metrics=True),
        enable_rtvi=False,
    )

    started = asyncio.Event()
    floor: asyncio.Queue[type[Frame]] = asyncio.Queue()
    worker.set_reached_upstream_filter((BotStartedSpeakingFrame, BotStoppedSpeakingFrame))

    @worker.event_handler("on_pipeline_started")
    async def on_started(*_: Any) -> None:
        started.set()

    @worker.event_handler("on_frame_reached_upstream")
    async def on_upstream(_worker: Any, frame: Frame) -> None:
        floor.put_nowait(type(frame))

    async def until(kind: type[Frame]) -> None:
        while await floor.get() is not kind:
            pass

    async def say(text: str) -> None:
        await worker.queue_frame(VADUserStartedSpeakingFrame(start_secs=0.2))
        await worker.queue_frame(InputAudioRawFrame(text.encode(), 16000, 1))
        await worker.queue_frame(VADUserStoppedSpeakingFrame(stop_secs=0.05))

    async def play() -> None:
        await started.wait()
        await worker.queue_frame(TTSSpeakFrame("Good evening."))
        await until(BotStoppedSpeakingFrame)
        await say("Tell me a story.")
        await until(BotStartedSpeakingFrame)
        await say("A table for two, please.")
        await until(BotStoppedSpeakingFrame)  # the story
        await until(BotStoppedSpeakingFrame)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.wait_for(asyncio.gather(runner.run(), play()), 30)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
