"""Vapi: server messages. They are proven by a secret in a header, which the user chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports import vapi as reports
from session_bridge.webhooks.signature import required, same, untrusted

DEFAULT_HEADER = "X-Vapi-Secret"
# They come many times in a call, and what they say the report at its end says again.
_SAID_AGAIN = frozenset(
    (
        "assistant.speechStarted", "assistant.started", "conversation-update", "language-change-detected",
        "model-output", "speech-update", "tool-calls", "transcript", "voice-input",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vapi:
    """Requests with a secret in a header."""

    secret: str = field(repr=False)
    header: str = DEFAULT_HEADER
    name: str = "vapi"
    path: str = "/vapi"
    methods: tuple[str, ...] = ("POST",)

    def __post_init__(self) -> None:
        required(self.secret, "Vapi's secret")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the header holds the secret."""
        if not same(callback.header(self.header), self.secret):
            raise untrusted(f"{self.header} does not hold the secret")

    def read(self, callback: Callback) -> Body:
        """The JSON."""
        return callback.json()

    def understand(self, body: Body) -> list[News]:
        """What a server message says."""
        message = facts.part(body, "message") or dict(body)
        # `transcript[transcriptType="final"]` is one of them.
        if facts.text(message.get("type")).partition("[")[0] in _SAID_AGAIN:
            return []
        found = reports.understand(body)
        for news in found:
            news.reason = "vapi webhook"
            at = facts.moment(message.get("endedAt")) or facts.moment(message.get("timestamp"))
            news.fields |= facts.fields(last_activity_at=facts.iso(at))
        return found
