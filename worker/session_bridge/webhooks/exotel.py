"""Exotel: status callbacks as JSON or as a flat form, and the Passthru applet's requests.

What the fields mean: https://developer.exotel.com/api/statuscallback. Exotel signs nothing. What proves a request is a
secret in its path, and its sender's address where those are listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import tzinfo

from session_bridge.errors import SettingsError
from session_bridge.recorder.snapshot import event_id_of
from session_bridge.webhooks import facts
from session_bridge.webhooks.callback import Body, Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.origin import Networks, is_among, networks
from session_bridge.webhooks.signature import required, same, untrusted
from session_bridge.zones import zone_of

DEFAULT_ZONE = "Asia/Kolkata"
_UNDERSTOOD = (
    "CallSid", "AccountSid", "Status", "CallStatus", "From", "To", "CallFrom", "CallTo", "Direction", "DateUpdated",
    "StartTime", "EndTime", "RecordingUrl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exotel:
    """Requests to a path that only Exotel knows, from addresses that are its own."""

    secret: str = field(repr=False)
    addresses: Networks = ()
    zone: tzinfo = field(default_factory=lambda: zone_of(DEFAULT_ZONE))
    name: str = "exotel"
    path: str = "/exotel/{secret}"
    methods: tuple[str, ...] = ("POST", "GET")

    def __post_init__(self) -> None:
        required(self.secret, "the secret of Exotel's path")

    @classmethod
    def of(cls, secret: str, addresses: Iterable[str] = (), time_zone: str = DEFAULT_ZONE) -> Exotel:
        """One that takes requests from these addresses or networks; none means from everywhere.

        `time_zone` is that of its times, which come without one. Raises SettingsError for what is no address or zone.
        """
        try:
            zone = zone_of(time_zone)
        except ValueError as error:
            raise SettingsError(f"the zone of Exotel's times: {error}") from error
        return cls(secret, networks(addresses, "Exotel's addresses"), zone)

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the path ends in the secret and the sender is one of those listed."""
        if not same(callback.secret, self.secret):
            raise untrusted("the path does not end in the secret")
        if self.addresses and not is_among(callback.address, self.addresses):
            raise untrusted("the sender's address is not one of those listed")

    def read(self, callback: Callback) -> Body:
        """The form, the JSON or the parameters."""
        return callback.fields()

    def understand(self, body: Body) -> list[News]:
        """What a status callback or a Passthru request says."""
        return understand(body, self.zone)


def understand(body: Body, zone: tzinfo) -> list[News]:
    """What a status callback or a Passthru request says, its times in this zone."""
    sid = facts.call_sid(body, "CallSid")
    # `Status` is a status callback's. A Passthru request's `CallStatus` comes from within the call: whatever it says of
    # an end is an end of a part of it.
    said = facts.text(body.get("Status"))
    within = facts.text(body.get("CallStatus"))
    status = said or ("" if facts.is_end(within) else within)
    over = facts.is_end(said) and facts.text(body.get("EventType")).lower() in ("", "terminal")
    updated = facts.moment(body.get("DateUpdated"), zone)
    ended = facts.moment(body.get("EndTime"), zone) if over else None
    news = News(sid, reason="exotel status callback", ended=over)
    news.fields = facts.fields(
        account_sid=facts.text(body.get("AccountSid")),
        direction=facts.direction(body.get("Direction")),
        from_number=facts.text(body.get("From")) or facts.text(body.get("CallFrom")),
        to_number=facts.text(body.get("To")) or facts.text(body.get("CallTo")),
        status=status if over or not facts.is_end(status) else "",
        started_at=facts.iso(facts.moment(body.get("StartTime"), zone)),
        ended_at=facts.iso(ended or updated) if over else None,
        last_activity_at=facts.iso(updated or ended),
        end_reason=said if over and said != "completed" else None,
    )
    if "status" in news.fields and updated:
        news.fields["status_sequence"] = str(int(updated.timestamp()))
    if recording := facts.text(body.get("RecordingUrl")):
        news.fields["recording_url"] = recording
        news.fields[f"recording:{event_id_of(recording)}"] = facts.event(recording_url=recording)
    legs: list[object] = list(facts.flat(body, "Legs"))
    rest = {name: value for name, value in body.items() if not name.startswith("Legs[")}
    if legs:
        rest["Legs"] = legs  # type: ignore[assignment]  # objects of JSON
    event = facts.text(body.get("EventType")) or said or within or "callback"
    news.fields |= facts.kept("exotel", event, rest, known=_UNDERSTOOD, at=updated)
    return [news]
