"""Plivo: the callbacks of a call (ring, answer, hang-up) and of a recording.

What the fields mean: https://www.plivo.com/docs/voice/concepts/callbacks. Signatures:
https://www.plivo.com/docs/voice/concepts/signature-validation. They carry no time, so there is no window for replays: a
callback that is repeated says nothing new.

Plivo's own library is not used for them: it compares digests byte by byte until they differ, which tells how much of a
forged one was right, and it brings lxml and requests. The tests hold what is here against what it says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from session_bridge.errors import UnreadableCallbackError
from session_bridge.recorder.snapshot import event_id_of
from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.signature import base64_sha256, required, same_as_any, untrusted

_CENTS = 100
_WORDS = {"timeout": "no-answer", "cancel": "canceled", "rejected": "busy"}
_ORDER = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
_LAST = 4
_RECORDING = ("RecordUrl", "RecordingUrl", "RecordingID")
_UNDERSTOOD = (
    "CallUUID", "From", "To", "CallStatus", "Direction", "Event", "StartTime", "AnswerTime", "EndTime", "Duration",
    "TotalCost", "ParentCallUUID", *_RECORDING, "RecordingDuration", "RecordingDurationMs", "RecordingStartMs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plivo:
    """Requests signed with an account's auth token.

    A signature of version 3 is one of the URL and of the body. One of version 2 is of the URL alone, so that who has
    seen one request can write others; it counts only where `signature` is `v2`, for accounts that have no other.
    """

    auth_token: str = field(repr=False)
    signature: Literal["v3", "v2"] = "v3"
    name: str = "plivo"
    path: str = "/plivo"
    methods: tuple[str, ...] = ("POST", "GET")

    def __post_init__(self) -> None:
        required(self.auth_token, "Plivo's auth token")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless Plivo signed this URL and, from version 3 on, this body."""
        version = self.signature.upper()
        given = callback.header(f"x-plivo-signature-{version}")
        nonce = callback.header(f"x-plivo-signature-{version}-nonce")
        if not given or not nonce:
            raise untrusted(f"there is no X-Plivo-Signature-{version} with its nonce")
        if callback.method != "GET" and callback.is_json:
            raise untrusted("Plivo posts forms, and signs them as such; this is JSON")
        try:
            signed = signed_v2(callback, nonce) if self.signature == "v2" else signed_v3(callback, nonce)
        except (ValueError, UnreadableCallbackError) as error:
            raise untrusted("what is signed cannot be read") from error
        expected = base64_sha256(self.auth_token, signed)
        # While an auth token is being changed there are two, by commas.
        if not same_as_any(map(str.strip, given.split(",")), expected):
            raise untrusted(f"X-Plivo-Signature-{version} is not that of this request")

    def read(self, callback: Callback) -> Body:
        """The form or the parameters."""
        return callback.fields()

    def understand(self, body: Body) -> list[News]:
        """What a callback of a call or of a recording says."""
        return understand(body)


def signed_v2(callback: Callback, nonce: str) -> bytes:
    """What version 2 signs: the URL without its query, and the nonce."""
    parts = urlsplit(callback.url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}{nonce}".encode()


def signed_v3(callback: Callback, nonce: str) -> bytes:
    """What version 3 signs: the URL and its sorted parameters, the body's, sorted and run together, and the nonce."""
    parts = urlsplit(callback.url)
    signed = f"{parts.scheme}://{parts.netloc}{parts.path}"
    posted = [] if callback.method == "GET" else callback.form()
    query = "&".join(f"{name}={value}" for name, value in _sorted(callback.query()))
    if query or posted:
        signed += f"?{query}"
    if query and posted:
        signed += "."
    return f"{signed}{''.join(f'{name}{value}' for name, value in _sorted(posted))}.{nonce}".encode()


def _sorted(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs)


def understand(body: Body) -> list[News]:
    """What the fields of a callback say."""
    sid = facts.call_sid(body, "CallUUID")
    if any(facts.text(body.get(name)) for name in _RECORDING):
        return [_recording(sid, body)]
    word = facts.text(body.get("CallStatus"))
    status = _WORDS.get(word, word)
    # `Hangup` is what the call's own end is called; a `CallStatus` alone may be that of one step in it.
    over = facts.is_end(status) and facts.text(body.get("Event")) in ("Hangup", "")
    started, answered, ended = (facts.moment(body.get(name)) for name in ("StartTime", "AnswerTime", "EndTime"))
    news = News(sid, reason="plivo callback", ended=over)
    news.fields = facts.fields(
        parent_call_sid=facts.text(body.get("ParentCallUUID")),
        account_sid=facts.text(body.get("ParentAuthID")),
        direction=facts.direction(body.get("Direction")),
        from_number=facts.text(body.get("From")),
        to_number=facts.text(body.get("To")),
        status=status if over or not facts.is_end(status) else "",
        started_at=facts.iso(started),
        answered_at=facts.iso(answered),
        ended_at=facts.iso(ended) if over else None,
        last_activity_at=facts.iso(ended or answered or started),
        end_reason=status if over and status != "completed" else None,
    )
    if "status" in news.fields:
        news.fields["status_sequence"] = str(_LAST if over else _ORDER.get(status, 1))
    price = facts.number(body.get("TotalCost"))
    if over and price is not None:
        amount = round(price * _CENTS, 6)
        cost = facts.event(service="telephony", amount_cents=amount, currency="USD", provider="plivo")
        news.fields["cost:plivo-call"] = cost
    event = facts.text(body.get("Event")) or word or "callback"
    news.fields |= facts.kept("plivo", event, body, known=_UNDERSTOOD, at=ended or answered or started)
    return [news]


def _recording(sid: str, body: Body) -> News:
    # No sign of life and no end: see Twilio's.
    url = facts.text(body.get("RecordUrl")) or facts.text(body.get("RecordingUrl"))
    recording = facts.text(body.get("RecordingID"))
    milliseconds = facts.number(body.get("RecordingDurationMs"))
    event = facts.event(
        revision=2 if url else 1,
        recording_sid=recording,
        recording_url=url,
        duration_seconds=facts.number(body.get("RecordingDuration")) if milliseconds is None else milliseconds / 1000,
        timestamp=facts.iso(facts.moment(body.get("RecordingStartMs"))),
    )
    left = facts.kept("plivo", "recording", body, known=_UNDERSTOOD)
    return News(sid, {f"recording:{event_id_of(recording or url)}": event, "recording_enabled": "true"} | left)
