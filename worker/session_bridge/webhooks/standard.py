"""Everybody else: Standard Webhooks (https://www.standardwebhooks.com), with the contract's own names in the body.

The body is `{"type": "call.updated", "timestamp": "2026-11-21T10:00:00Z", "data": {"call_sid": "…", …}}`; `data` has
state fields, documents and events by their names in a live session. The call is over if its `status` is an end, or if
`type` is `call.ended`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from pydantic import JsonValue

from session_bridge.contract.fields import DOCUMENTS, EVENT_FIELD, STATE_FIELDS
from session_bridge.errors import SettingsError, UnreadableCallbackError
from session_bridge.recorder.snapshot import state_bytes
from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.signature import is_canonical, missing_extra, required, untrusted

try:
    from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook
except ModuleNotFoundError as error:
    raise missing_extra("standardwebhooks", error) from error

ENDED = "call.ended"
_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
# Who said it, and who asked for the drain, is for us to say.
_OURS = frozenset(("call_sid", "finalize_reason", "finalized_by", "status_by"))


@dataclass(frozen=True, slots=True)
class Standard:
    """Requests signed with a secret (`whsec_…`), at most five minutes ago."""

    secret: str = field(repr=False)
    name: str = "standard"
    path: str = "/standard"
    methods: tuple[str, ...] = ("POST",)

    def __post_init__(self) -> None:
        key = required(self.secret.removeprefix("whsec_"), "the secret of Standard Webhooks")
        try:
            base64.b64decode(key + "=" * (-len(key) % 4), validate=True)
            Webhook(self.secret)
        except (ValueError, EmptyWebhookSecretError) as error:
            raise SettingsError(
                "the secret of Standard Webhooks is no base64: copy it whole, whsec_ and all"
            ) from error

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless one signature is that of this id, time and body, and of now."""
        headers = {name: callback.header(name) for name in _HEADERS}
        signatures = headers["webhook-signature"].split(" ")
        headers["webhook-signature"] = " ".join(one for one in signatures if is_canonical(one.partition(",")[2]))
        try:
            Webhook(self.secret).verify(callback.body, headers, json_parse=False)
        except Exception as error:  # headers may hold anything, and the library raises accordingly
            raise untrusted("webhook-signature is not that of this request, or not of the last five minutes") from error

    def read(self, callback: Callback) -> Body:
        """The JSON."""
        return callback.json()

    def understand(self, body: Body) -> list[News]:
        """What the body says."""
        return understand(body)


def understand(body: Body) -> list[News]:
    """What the body says."""
    data = body.get("data")
    if not isinstance(data, dict):
        raise UnreadableCallbackError("the body has no data: write {type, timestamp, data: {call_sid, …}}")
    kind, at = facts.text(body.get("type")), facts.moment(body.get("timestamp"))
    news = News(facts.call_sid(data, "call_sid"), reason="standard webhook")
    unknown: dict[str, JsonValue] = {}
    for name, value in data.items():
        if value is None or name in _OURS:
            continue
        if name in STATE_FIELDS or name in DOCUMENTS or EVENT_FIELD.fullmatch(name):
            news.fields[name] = state_bytes(value).decode()
        else:
            unknown[name] = value
    # The state is as new as the message. Among events each has its own time: a late price is no sign of life.
    if not all(map(EVENT_FIELD.fullmatch, news.fields)):
        news.fields = facts.fields(last_activity_at=facts.iso(at)) | news.fields
    if "status" in news.fields and at:
        news.fields.setdefault("status_sequence", str(int(at.timestamp() * 1000)))
    news.ended = kind == ENDED or facts.is_end(news.fields.get("status", ""))
    if news.ended:
        news.fields |= {"ended_at": facts.iso(at)} if at and "ended_at" not in news.fields else {}
    rest = {name: value for name, value in body.items() if name not in ("type", "timestamp", "data")} | unknown
    news.fields |= facts.kept("standard", kind or "callback", rest)
    return [news]
