"""ElevenLabs: post-call webhooks. Signatures: https://elevenlabs.io/docs/agents-platform/workflows/post-call-webhooks.

ElevenLabs' own library is not used for them: it compares digests byte by byte until they differ, and it is a client of
the whole API, with requests, httpx and websockets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports import elevenlabs as reports
from session_bridge.webhooks.signature import CLOCK, Clock, hex_sha256, required, same_as_any, untrusted

_WINDOW_SECONDS = 30 * 60


@dataclass(frozen=True, slots=True)
class ElevenLabs:
    """Requests signed with a webhook's secret, at most half an hour ago."""

    secret: str = field(repr=False)
    clock: Clock = CLOCK
    name: str = "elevenlabs"
    path: str = "/elevenlabs"
    methods: tuple[str, ...] = ("POST",)

    def __post_init__(self) -> None:
        required(self.secret, "ElevenLabs' secret")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the signature is that of this body, and of now."""
        parts = [item.strip().partition("=") for item in callback.header("elevenlabs-signature").split(",")]
        times = [value for name, _, value in parts if name == "t"]
        digests = [value for name, _, value in parts if name == "v0"]
        if len(times) != 1 or not digests or not (times[0].isascii() and times[0].isdigit()):
            raise untrusted("there is no ElevenLabs-Signature with one t and a v0")
        if len(times[0]) > len(str(2**62)) or abs(self.clock() - int(times[0])) > _WINDOW_SECONDS:
            raise untrusted("ElevenLabs-Signature is not of the last half hour")
        expected = hex_sha256(self.secret, times[0].encode(), b".", callback.body)
        if not same_as_any(digests, expected):
            raise untrusted("ElevenLabs-Signature is not that of this body")

    def read(self, callback: Callback) -> Body:
        """The JSON."""
        return callback.json()

    def understand(self, body: Body) -> list[News]:
        """What a post-call webhook says."""
        if facts.text(body.get("type")) == "post_call_audio":
            # Sound is no record; the conversation's id, under which it can be had, comes with the transcription.
            return []
        found = reports.understand(body)
        for news in found:
            news.reason = "elevenlabs webhook"
            news.fields |= facts.fields(last_activity_at=news.fields.get("ended_at"))
        return found
