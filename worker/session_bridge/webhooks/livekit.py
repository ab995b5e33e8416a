"""LiveKit: a room's webhooks, and an agent's session report.

What they carry: https://docs.livekit.io/home/server/webhooks/ and the messages of `livekit_webhook.proto`,
`livekit_models.proto` and `livekit_egress.proto`. A request's `Authorization` is a token, valid for some minutes, that
holds the body's digest. The sender drops what it cannot deliver soon: a `room_finished` that never comes is the
sweep's work.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from session_bridge.errors import UnreadableCallbackError
from session_bridge.recorder.snapshot import event_id_of
from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.reports import livekit as reports
from session_bridge.webhooks.signature import is_canonical, missing_extra, required, untrusted

try:
    from livekit.api import TokenVerifier
except ModuleNotFoundError as error:
    raise missing_extra("livekit", error) from error

_REASON = "livekit webhook"
_NANOSECONDS = 1e9
_JOINED, _LEFT = 1, 2
_PARTICIPANT_EVENTS = {
    "participant_joined": _JOINED,
    "participant_left": _LEFT,
    "participant_connection_aborted": _LEFT,
}
_EGRESS_EVENTS = {"egress_started": 1, "egress_updated": 2, "egress_ended": 3}
# What a track or an ingress does is not what a call's record is about, and there are many.
_NOTHING_TO_KEEP = ("track_published", "track_unpublished", "ingress_started", "ingress_ended")
_TYPES = {"AGENT": "agent", "SIP": "user", "STANDARD": "user"}
_SIP_STATE = {
    "sip.callIDFull": "sip_call_id",
    "sip.trunkID": "sip_trunk_id",
    "sip.twilio.callSid": "twilio_call_sid",
    "sip.twilio.accountSid": "account_sid",
}


@dataclass(frozen=True, slots=True)
class LiveKit:
    """Requests signed with an API key's secret."""

    api_key: str
    api_secret: str = field(repr=False)
    name: str = "livekit"
    path: str = "/livekit"
    methods: tuple[str, ...] = ("POST",)

    def __post_init__(self) -> None:
        required(self.api_key, "LiveKit's API key")
        required(self.api_secret, "LiveKit's API secret")

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the token is valid now and holds this body's digest."""
        token = callback.header("authorization").removeprefix("Bearer ")
        if not all(is_canonical(part, urlsafe=True) for part in token.split(".")):
            raise untrusted("there is no token in Authorization")
        try:
            claims = TokenVerifier(self.api_key, self.api_secret).verify(token)
            digest = base64.b64decode(claims.sha256 or "", validate=True)
        except Exception as error:  # a token may hold anything, and the library raises accordingly
            raise untrusted("the token in Authorization is none of this key's, or is not valid now") from error
        if not hmac.compare_digest(digest, hashlib.sha256(callback.body).digest()):
            raise untrusted("the token's sha256 is not that of this body")

    def read(self, callback: Callback) -> Body:
        """The JSON."""
        return callback.json()

    def understand(self, body: Body) -> list[News]:
        """What a webhook says, or a session report."""
        return understand(body)


def understand(body: Body) -> list[News]:
    """What a webhook says, or a session report."""
    event = facts.text(body.get("event"))
    if not event and "chat_history" in body:
        found = reports.understand(body)
        for news in found:
            # What the room says of its end, a little later, says more of the call.
            news.fields |= facts.fields(last_activity_at=news.fields.get("ended_at"))
            news.reason = _REASON
        return found
    if not event:
        raise UnreadableCallbackError("the body is neither a webhook's, with an event, nor a session report")
    if event in _NOTHING_TO_KEEP:
        return []
    room, egress = facts.part(body, "room"), facts.part(body, "egressInfo")
    sid = (
        facts.text(room.get("sid"))
        or facts.text(egress.get("roomId"))
        or facts.text(facts.part(body, "job", "room").get("sid"))
    )
    if not sid:
        # An egress of a web page, or a job before it has a room.
        return []
    at = facts.moment(body.get("createdAt"))
    news = News(sid, reason=_REASON, ended=event == "room_finished")
    news.fields = facts.fields(
        room_name=facts.text(room.get("name")) or facts.text(egress.get("roomName")),
        started_at=facts.iso(facts.moment(room.get("creationTimeMs")) or facts.moment(room.get("creationTime"))),
    )
    # A recording is ready when the room may be long empty: it is no sign of life.
    if event not in _EGRESS_EVENTS:
        news.fields |= facts.fields(last_activity_at=facts.iso(at))
    if event in ("room_started", "room_finished"):
        status = "in_progress" if event == "room_started" else "completed"
        news.fields |= facts.fields(status=status, status_sequence=int(at.timestamp()) if at else None)
        news.fields |= facts.fields(ended_at=facts.iso(at) if news.ended else "")
    elif event in _PARTICIPANT_EVENTS:
        _participant(news, facts.part(body, "participant"), event, facts.iso(at))
    elif event in _EGRESS_EVENTS:
        _recordings(news, egress, _EGRESS_EVENTS[event])
    else:
        left: dict[str, JsonValue] = {name: value for name, value in body.items() if name != "id"}
        news.fields |= facts.kept("livekit", event, left, known=("event", "createdAt", "room"), at=at)
    return [news]


def _participant(news: News, participant: Mapping[str, JsonValue], event: str, at: str) -> None:
    sid, identity = facts.text(participant.get("sid")), facts.text(participant.get("identity"))
    if not identity:
        news.fields |= facts.kept("livekit", event, {"participant": dict(participant)})
        return
    attributes = facts.part(participant, "attributes")
    kind = facts.text(participant.get("kind"))
    revision = _PARTICIPANT_EVENTS[event]
    joined = facts.moment(participant.get("joinedAtMs")) or facts.moment(participant.get("joinedAt"))
    news.fields[f"participant:{event_id_of(sid or identity)}"] = facts.event(
        revision=revision,
        identity=identity,
        name=facts.text(participant.get("name")),
        participant_type=_TYPES.get(kind, kind.lower() or "user"),
        joined_at=facts.iso(joined),
        timestamp=facts.iso(joined),
        left_at=at if revision == _LEFT else None,
        disconnect_reason=facts.text(participant.get("disconnectReason")) if revision == _LEFT else None,
        attributes=attributes or None,
    )
    if kind == "SIP" or "sip.phoneNumber" in attributes:
        caller, ours = facts.text(attributes.get("sip.phoneNumber")), facts.text(attributes.get("sip.trunkPhoneNumber"))
        # A dispatch rule is what an inbound call comes in by.
        inbound = bool(facts.text(attributes.get("sip.ruleID")))
        news.fields |= facts.fields(
            channel="sip",
            direction="inbound" if inbound else "outbound",
            from_number=caller if inbound else ours,
            to_number=ours if inbound else caller,
        )
        for attribute, name in _SIP_STATE.items():
            news.fields |= facts.fields(**{name: facts.text(attributes.get(attribute))})


def _recordings(news: News, egress: Mapping[str, JsonValue], revision: int) -> None:
    egress_id = facts.text(egress.get("egressId"))
    results = egress.get("fileResults")
    files = [item for item in results if isinstance(item, dict)] if isinstance(results, list) else []
    for place, file in enumerate(files or [facts.part(egress, "file")]):
        started = _seconds(file.get("startedAt")) or _seconds(egress.get("startedAt"))
        name = egress_id if place == 0 else f"{egress_id}.{place}"
        if not egress_id:
            continue
        news.fields[f"recording:{event_id_of(name)}"] = facts.event(
            revision=revision,
            recording_sid=egress_id,
            recording_url=facts.text(file.get("location")) or facts.text(file.get("filename")),
            duration_seconds=_seconds(file.get("duration")),
            status=facts.text(egress.get("status")).removeprefix("EGRESS_").lower(),
            error=facts.text(egress.get("error")),
            timestamp=facts.iso(facts.moment(started)) if started else None,
        )
    news.fields |= facts.fields(recording_enabled="true")


def _seconds(nanoseconds: JsonValue) -> float | None:
    """An egress counts in nanoseconds, 64 bits of them, its lengths and its moments alike."""
    found = facts.whole(nanoseconds, below=2.0**63)
    return None if found is None else found / _NANOSECONDS
