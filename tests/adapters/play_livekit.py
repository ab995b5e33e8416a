"""A session of LiveKit Agents, recorded: run by test_livekit.py in an environment that has the package.

The session, its agents and its tools are real; only the services at its edge (LLM, TTS, the loudspeaker) are not. Its
last line of output is the session's own report, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from livekit import rtc
from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, Agent, AgentSession, RunContext, function_tool, llm, tts
from livekit.agents.llm import ChatChunk, ChoiceDelta, CompletionUsage, FunctionToolCall
from livekit.agents.testing import fake_job_context
from livekit.agents.voice.io import AudioOutput, AudioOutputCapabilities
from livekit.agents.voice.report import SessionReport

from session_bridge.adapters.livekit import record
from session_bridge.recorder import CallRecorder

# What the language model answers to what it reads last.
ANSWERS: dict[str, tuple[str, list[FunctionToolCall]]] = {
    "A table for two, please.": (
        "One moment.",
        [FunctionToolCall(name="book_table", arguments='{"party": 2}', call_id="call_book")],
    ),
    "booked for 2": ("You are booked.", []),
    "Can I talk to somebody?": ("", [FunctionToolCall(name="to_a_person", arguments="{}", call_id="call_person")]),
    "Now to Bo": ("", []),
    "Break it": ("", [FunctionToolCall(name="fail", arguments="{}", call_id="call_fail")]),
    "An internal error occurred": ("That did not work.", []),
}
LONG = "This is a long story that nobody wants to hear to its end."


class Model(llm.LLM):
    def chat(
        self, *, chat_ctx: Any, tools: Any = None, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS, **_: Any
    ) -> Any:
        return ModelStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)

    @property
    def model(self) -> str:
        return "model-1"

    @property
    def provider(self) -> str:
        return "a-lab"


class ModelStream(llm.LLMStream):
    async def _run(self) -> None:
        last = self._chat_ctx.items[-1]
        asked = last.output if last.type == "function_call_output" else getattr(last, "text_content", "") or ""
        text, calls = ANSWERS.get(asked, ("", []))
        self._event_ch.send_nowait(
            ChatChunk(id="c", delta=ChoiceDelta(role="assistant", content=text, tool_calls=calls))
        )
        usage = CompletionUsage(completion_tokens=5, prompt_tokens=20, prompt_cached_tokens=4, total_tokens=25)
        self._event_ch.send_nowait(ChatChunk(id="c", usage=usage))


class Voice(tts.TTS):
    def __init__(self) -> None:
        super().__init__(capabilities=tts.TTSCapabilities(streaming=False), sample_rate=24000, num_channels=1)

    @property
    def model(self) -> str:
        return "voice-1"

    @property
    def provider(self) -> str:
        return "a-choir"

    def synthesize(self, text: str, *, conn_options: Any = DEFAULT_API_CONNECT_OPTIONS) -> Any:
        return VoiceStream(tts=self, input_text=text, conn_options=conn_options)


class VoiceStream(tts.ChunkedStream):
    async def _run(self, output_emitter: Any) -> None:
        output_emitter.initialize(request_id="r", sample_rate=24000, num_channels=1, mime_type="audio/pcm")
        output_emitter.push(b"\x00\x00" * (24000 * 30 if self._input_text == LONG else 2400))
        output_emitter.flush()


class Loudspeaker(AudioOutput):
    """Plays at once what is short, and what is long until it is interrupted."""

    def __init__(self) -> None:
        super().__init__(label="test", capabilities=AudioOutputCapabilities(pause=False))
        self.playing = asyncio.Event()
        self._seconds = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        if not self._seconds:
            self.on_playback_started(created_at=time.time())
        self._seconds += frame.duration
        self.playing.set()

    def flush(self) -> None:
        super().flush()
        if 0 < self._seconds < 10:
            self._finish(self._seconds, interrupted=False)

    def clear_buffer(self) -> None:
        if self._seconds:
            self._finish(1.0, interrupted=True)

    def _finish(self, position: float, *, interrupted: bool) -> None:
        self._seconds = 0.0
        self.playing.clear()
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


class Ann(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="You take reservations.", id="ann")

    @function_tool
    async def book_table(self, context: RunContext[None], party: int) -> str:
        """Book a table."""
        return f"booked for {party}"

    @function_tool
    async def fail(self, context: RunContext[None]) -> str:
        """Fail."""
        raise RuntimeError("no table left")

    @function_tool
    async def to_a_person(self, context: RunContext[None]) -> tuple[Agent, str]:
        """Hand the caller over."""
        return Bo(), "Now to Bo"


class Bo(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="You are the head waiter.", id="bo")

    async def on_enter(self) -> None:
        self.session.say("Bo speaking.")


async def main(sid: str) -> None:
    # A job, as it is in production: when it shuts down it waits for the recording.
    with fake_job_context() as job:
        await play(sid)
        for callback in job._shutdown_callbacks:
            await callback("over")


async def play(sid: str) -> None:
    session: AgentSession[None] = AgentSession(llm=Model(), tts=Voice())
    speaker = Loudspeaker()
    session.output.audio = speaker

    record(session, CallRecorder(sid, provider="livekit", room_name="a-room"))

    await session.start(Ann())
    await session.say("Good evening.")
    for said in ("A table for two, please.", "Break it", "Can I talk to somebody?"):
        await session.run(user_input=said)
    story = session.say(LONG)
    await speaker.playing.wait()
    session.interrupt(force=True)
    await story
    await session.aclose()
    report = SessionReport(
        job_id="AJ_1",
        room_id=sid,
        room="a-room",
        options=session.options,
        events=session._recorded_events,
        chat_history=session.history.copy(),
        model_usage=session.usage.model_usage,
        started_at=session._started_at,
        duration=time.time() - (session._started_at or 0),
    )
    sys.stdout.write("\n" + json.dumps(report.to_dict(), default=str) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
