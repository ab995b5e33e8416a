"""Twilio: status callbacks and recording callbacks.

What the fields mean: https://www.twilio.com/docs/voice/twiml#request-parameters,
https://www.twilio.com/docs/voice/api/call-resource#statuscallback and
https://www.twilio.com/docs/voice/api/recording#recordingstatuscallback. Signatures:
https://www.twilio.com/docs/usage/webhooks/webhooks-security; they carry no time, so there is no window for replays:
a callback that is repeated says nothing new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from session_bridge.errors import UnreadableCallbackError
from session_bridge.recorder.snapshot import event_id_of
from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.signature import missing_extra, required, same, untrusted

try:
    from twilio.request_validator import (  # type: ignore[import-untyped]
        RequestValidator,
        get_signature_algorithm,
    )
except ModuleNotFoundError as error:
    raise missing_extra("twilio", error) from error

# Where a call stands that comes without a SequenceNumber, as callbacks did before there were such numbers.
_ORDER = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3}
_LAST = 4
_RECORDING_STARTED = "in-progress"
_UNDERSTOOD = (
    "CallSid", "AccountSid", "ParentCallSid", "CallStatus", "From", "To", "Caller", "Called", "Timestamp",
    "SequenceNumber", "CallDuration", "Duration", "RecordingSid", "RecordingUrl", "RecordingDuration",
)  # fmt: skip
_RECORDING_UNDERSTOOD = (
    "CallSid", "AccountSid", "RecordingSid", "RecordingUrl", "RecordingStatus", "RecordingDuration",
    "RecordingChannels", "RecordingStartTime", "RecordingSource", "RecordingTrack",
)  # fmt: skip


class _Parameters:
    """Form fields in the way the validator asks for them, each with all its values."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def getall(self, name: str) -> list[str]:
        return self._values[name]


@dataclass(frozen=True, slots=True)
class Twilio:
    """Requests signed with an account's auth token."""

    auth_token: str = field(repr=False)
    name: str = "twilio"
    path: str = "/twilio"
    methods: tuple[str, ...] = ("POST", "GET")

    def __post_init__(self) -> None:
        required(self.auth_token, "Twilio's auth token")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless Twilio signed this URL and this body."""
        given = callback.header("x-twilio-signature")
        if not given.isascii() or not given:
            raise untrusted("there is no X-Twilio-Signature")
        parameters: str | _Parameters | None = None
        try:
            if callback.method != "GET" and callback.is_json:
                # The URL alone is signed, and holds the body's digest: without one anybody could change the body.
                digests = parse_qs(urlsplit(callback.url).query).get("bodySHA256", [])
                if len(digests) != 1 or not same(digests[0], hashlib.sha256(callback.body).hexdigest()):
                    raise untrusted("the body is not the one whose bodySHA256 is in the URL")
                parameters = callback.body.decode()
            elif callback.method != "GET":
                parameters = _Parameters(callback.form())
            algorithm = get_signature_algorithm(callback.header("x-twilio-webhooks-signature-settings"))
            valid = RequestValidator(self.auth_token).validate(callback.url, parameters, given, algorithm)
        except (ValueError, UnreadableCallbackError) as error:
            raise untrusted("what is signed cannot be read") from error
        if not valid:
            raise untrusted("X-Twilio-Signature is not that of this URL and body")

    def read(self, callback: Callback) -> Body:
        """The form, the JSON or the parameters."""
        return callback.fields()

    def understand(self, body: Body) -> list[News]:
        """What a status callback or a recording callback says."""
        return understand(body)


def understand(body: Body) -> list[News]:
    """What the fields of a status callback or a recording callback say."""
    if "RecordingStatus" in body and facts.text(body.get("RecordingSid")):
        return [_recording(body)]
    return [_status(body)]


def _status(body: Body) -> News:
    sid = facts.call_sid(body, "CallSid")
    status = facts.text(body.get("CallStatus"))
    at = facts.moment(body.get("Timestamp"))
    over = facts.is_end(status)
    news = News(sid, reason="twilio status callback", ended=over)
    sequence = facts.whole(body.get("SequenceNumber"))
    news.fields = facts.fields(
        account_sid=facts.text(body.get("AccountSid")),
        parent_call_sid=facts.text(body.get("ParentCallSid")),
        direction=facts.direction(body.get("Direction")),
        from_number=facts.text(body.get("From")) or facts.text(body.get("Caller")),
        to_number=facts.text(body.get("To")) or facts.text(body.get("Called")),
        status=status,
        status_sequence=_ORDER.get(status, _LAST if over else None) if sequence is None else sequence,
        last_activity_at=facts.iso(at),
        recording_sid=facts.text(body.get("RecordingSid")),
        recording_url=facts.text(body.get("RecordingUrl")),
        recording_duration_seconds=facts.number(body.get("RecordingDuration")),
    )
    if not status:
        news.fields.pop("status_sequence", None)
    if status in ("queued", "initiated"):
        news.fields |= facts.fields(started_at=facts.iso(at))
    elif status == "in-progress":
        news.fields |= facts.fields(answered_at=facts.iso(at))
    elif over:
        # CallDuration counts the seconds from the answer; Duration, beside it, the minutes that are charged.
        answered = facts.earlier(at, facts.number(body.get("CallDuration"))) if status == "completed" else None
        news.fields |= facts.fields(ended_at=facts.iso(at), answered_at=facts.iso(answered))
        if status != "completed":
            news.fields["end_reason"] = status
    news.fields |= facts.kept("twilio", status or "callback", body, known=_UNDERSTOOD, at=at)
    return news


def _recording(body: Body) -> News:
    # A recording is no sign of life: it may come when the call is long over. Nor is it an end: recording may stop and
    # begin again.
    sid = facts.text(body.get("RecordingSid"))
    status = facts.text(body.get("RecordingStatus"))
    event = facts.event(
        revision=1 if status == _RECORDING_STARTED else 2,
        recording_sid=sid,
        recording_url=facts.text(body.get("RecordingUrl")),
        status=status,
        duration_seconds=facts.number(body.get("RecordingDuration")),
        channels=facts.whole(body.get("RecordingChannels")),
        track=facts.text(body.get("RecordingTrack")),
        source=facts.text(body.get("RecordingSource")),
        timestamp=facts.iso(facts.moment(body.get("RecordingStartTime"))),
    )
    state = facts.fields(account_sid=facts.text(body.get("AccountSid")), recording_enabled="true")
    left = facts.kept("twilio", "recording", body, known=_RECORDING_UNDERSTOOD)
    return News(facts.call_sid(body, "CallSid"), {f"recording:{event_id_of(sid)}": event} | state | left)
