"""Retell: `call_started`, `call_ended`, `call_analyzed`. Signatures: https://docs.retellai.com/features/secure-webhook."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports import retell as reports
from session_bridge.webhooks.signature import CLOCK, Clock, missing_extra, required, untrusted

try:
    from retell.lib.webhook_auth import symmetric
except ModuleNotFoundError as error:
    raise missing_extra("retell", error) from error

_WINDOW_SECONDS = 300
# Each says all that the one before it said, and more.
_REVISIONS = {"call_started": 1, "call_ended": 2, "call_analyzed": 3}


@dataclass(frozen=True, slots=True)
class Retell:
    """Requests signed with the API key that has the webhook badge, at most five minutes ago."""

    api_key: str = field(repr=False)
    clock: Clock = CLOCK
    name: str = "retell"
    path: str = "/retell"
    methods: tuple[str, ...] = ("POST",)

    def __post_init__(self) -> None:
        required(self.api_key, "Retell's API key")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the signature is that of this body, and of now."""
        now = {"timestamp": round(self.clock() * 1000), "timeout": _WINDOW_SECONDS * 1000}
        given = callback.header("x-retell-signature")
        try:
            valid = symmetric["verify"](callback.body.decode(), self.api_key, given, now)
        except ValueError as error:
            raise untrusted("what is signed cannot be read") from error
        if not valid:
            raise untrusted("X-Retell-Signature is not that of this body, or not of the last five minutes")

    def read(self, callback: Callback) -> Body:
        """The JSON."""
        return callback.json()

    def understand(self, body: Body) -> list[News]:
        """What a webhook says."""
        found = reports.understand(body)
        call, event = facts.part(body, "call"), facts.text(body.get("event"))
        at = facts.moment(call.get("end_timestamp")) or facts.moment(call.get("start_timestamp"))
        revision = _REVISIONS.get(event)
        if at and event == "call_analyzed":
            # It is made after the call's end, and says the last word where the two do not say the same.
            at += timedelta(milliseconds=1)
        for news in found:
            news.reason = "retell webhook"
            news.fields |= facts.fields(last_activity_at=facts.iso(at))
            if revision is not None:
                news.fields = {name: facts.revised(name, value, revision) for name, value in news.fields.items()}
        return found
