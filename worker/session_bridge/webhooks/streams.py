"""A provider's media stream over a websocket: from its `start` to its `stop` the call is recorded. Needs only redis.

Twilio's messages: https://www.twilio.com/docs/voice/media-streams/websocket-messages; Exotel's are like them, in other
letters: https://support.exotel.com/support/solutions/articles/3000108630-working-with-the-stream-and-voicebot-applet.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from types import TracebackType
from typing import Self, TypeAlias

from redis.asyncio import Redis

from session_bridge.contract.keys import Keys, is_call_sid
from session_bridge.errors import UnreadableCallbackError
from session_bridge.recorder import CallRecorder

Message: TypeAlias = Mapping[str, object]
"""One message of the stream: its `event`, and what that brings."""

_NAMES = {
    "stream_sid": ("streamSid", "stream_sid"),
    "account_sid": ("accountSid", "account_sid"),
    "from_number": ("from",),
    "to_number": ("to",),
}
_CALL_SID = ("callSid", "call_sid")
_PARAMETERS = ("customParameters", "custom_parameters")


class MediaStream:
    """The call that a media stream belongs to, recorded for as long as the stream lasts.

    In an endpoint of Starlette or FastAPI::

        async with MediaStream(websocket.iter_text(), redis=redis) as stream:
            async for message in stream:
                ...  # `media`, `mark`, `dtmf`: stream.call is the call's recorder

    After a `stop` the call's drain is asked for. A stream that breaks off, or a block that ends by an exception, leaves
    the call its grace, in which it may come back.
    """

    def __init__(
        self,
        texts: AsyncIterable[str],
        *,
        redis: str | Redis | None = None,
        keys: Keys | None = None,
        provider: str | None = None,
        **state: object,
    ) -> None:
        """Hear a stream whose text messages are `texts`.

        Args:
            texts: what the websocket receives, as Starlette's and FastAPI's `iter_text()` gives it.
            redis: a URL, or a client, which stays yours to close; `REDIS_URL` if left out.
            keys: key names; those of the environment if left out.
            provider: the call's provider; `twilio` or `exotel` by the messages' letters if left out.
            state: state fields and documents to begin with, before those that the stream brings.
        """
        self._messages = _messages(texts)
        self._redis, self._keys, self._provider, self._state = redis, keys, provider, state
        self._call: CallRecorder | None = None
        self.stopped = False
        """Whether the provider has said that the stream is over."""

    @property
    def call(self) -> CallRecorder:
        """The recorder of the stream's call; there is one once the stream has begun."""
        if self._call is None:
            raise RuntimeError("the stream has not begun: enter it first, `async with MediaStream(…) as stream`")
        return self._call

    async def __aenter__(self) -> Self:
        """Wait for the stream's start. Raises UnreadableCallbackError if it ends before, or names no call."""
        async for message in self._messages:
            if message.get("event") == "start":
                self._call = self._recorder(message)
                return self
        raise UnreadableCallbackError("the media stream ended before it began: no start has come")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.stopped and error is None:
            await self.call.end(reason="stream stopped")
        else:
            await self.call.disconnected(reason="websocket closed")

    async def __aiter__(self) -> AsyncIterator[Message]:
        """The messages after the start, up to the stop."""
        async for message in self._messages:
            if message.get("event") == "stop":
                self.stopped = True
                return
            yield message

    def _recorder(self, message: Message) -> CallRecorder:
        start = message.get("start")
        facts = {**message, **start} if isinstance(start, dict) else message
        sid = _first(facts, _CALL_SID)
        if not isinstance(sid, str) or not is_call_sid(sid):
            raise UnreadableCallbackError("the media stream's start names no call: it has no callSid and no call_sid")
        found = {name: _first(facts, names) for name, names in _NAMES.items()}
        parameters = _first(facts, _PARAMETERS)
        known = {name: value for name, value in found.items() if isinstance(value, str) and value}
        if isinstance(parameters, dict) and parameters:
            known["custom_parameters"] = json.dumps(parameters, ensure_ascii=False)
        provider = self._provider or ("twilio" if "callSid" in facts else "exotel")
        state = {"channel": "voice", **self._state, **known}
        return CallRecorder(sid, redis=self._redis, keys=self._keys, provider=provider, **state)  # type: ignore[arg-type]  # the rest is state


def _first(facts: Message, names: tuple[str, ...]) -> object:
    return next((facts[name] for name in names if facts.get(name)), None)


async def _messages(texts: AsyncIterable[str]) -> AsyncIterator[Message]:
    """The objects among the messages; what is none is somebody else's noise."""
    async for text in texts:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict):
            yield message
