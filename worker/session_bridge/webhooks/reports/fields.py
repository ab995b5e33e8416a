"""The fields of a live session, gathered from one report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.contract.keys import check_call_sid
from session_bridge.contract.times import parse_time
from session_bridge.contract.vocabulary import EndReason, Status
from session_bridge.errors import UnreadableReportError
from session_bridge.recorder.snapshot import event_id_of, json_bytes, state_bytes
from session_bridge.webhooks.end_reasons import end_fields
from session_bridge.webhooks.news import News

_SMALLEST_AMOUNT, _WIDEST_AMOUNT = Decimal("1e-10"), Decimal("1e13")
_STATUS_OF_END = {
    EndReason.NO_ANSWER: Status.NO_ANSWER,
    EndReason.BUSY: Status.BUSY,
    EndReason.CANCELED: Status.CANCELED,
    EndReason.FAILED: Status.FAILED,
    EndReason.ERROR: Status.FAILED,
}
_SPOKEN = frozenset((EndReason.NO_ANSWER, EndReason.BUSY, EndReason.CANCELED))


class ReportFields:
    """What a report of `provider` says of one call.

    What is empty is left out. No event replaces another one of the same report, whatever ids it comes with.
    """

    def __init__(self, provider: str, call_sid: str | None, place: str) -> None:
        """Raises UnreadableReportError if there is no `call_sid`, which the report has at `place`."""
        if call_sid is None:
            raise UnreadableReportError(f"the body names no call: {place} is missing or is no text")
        try:
            check_call_sid(call_sid)
        except ValueError as error:
            raise UnreadableReportError(f"{place} cannot name a call: {error}") from error
        self.provider = provider
        self.call_sid = call_sid
        self.fields: dict[str, str] = {}
        self.state(provider=provider)

    # -- state and documents --------------------------------------------------------------------------------------

    def state(self, **fields: JsonValue) -> None:
        """Set state fields or documents, those of them that have a value."""
        for name, value in fields.items():
            if value not in (None, "", [], {}):
                self.fields[name] = state_bytes(value).decode()

    def ended(self, word: str | None, *, spoken: bool, sequence: float | None = None) -> None:
        """The call is over, and why, in the provider's own word.

        A call in which somebody spoke (`spoken`) was answered, whatever the word: it was the transfer that was not.
        """
        status = Status.COMPLETED
        if word is not None:
            fields = end_fields(self.provider, word)
            self.state(**fields)
            reason = EndReason(fields["end_reason"])
            if not (spoken and reason in _SPOKEN):
                status = _STATUS_OF_END.get(reason, Status.COMPLETED)
        self.status(status, sequence)

    def status(self, status: Status, sequence: float | None = None) -> None:
        """Where the call stands; of two that the provider said, the one of the higher `sequence` holds."""
        self.state(status=status.value, status_by=self.provider)
        if sequence is not None:
            self.state(status_sequence=str(int(sequence)))

    # -- events ---------------------------------------------------------------------------------------------------

    def event(self, family: Family | str, event_id: str, event: Mapping[str, JsonValue]) -> None:
        """Add an event of a family, known or not; the rest of what it was made from goes under the provider's name."""
        known = {name: value for name, value in event.items() if value not in (None, {})}
        name = event_id_of(event_id)
        value = json_bytes(known if name == event_id else {**known, "id": event_id}).decode()
        again = 1
        while self.fields.get(f"{family}:{name}", value) != value:
            again += 1
            name = event_id_of(f"{event_id}.{again}")
            value = json_bytes({**known, "id": event_id}).decode()
        self.fields[f"{family}:{name}"] = value

    def metric(
        self, event_id: str, metric_type: str, value: float | None, unit: str | None = None, **more: JsonValue
    ) -> None:
        """Add a measurement, if there is a value; a time comes in milliseconds, or in seconds with the unit `s`."""
        if value is not None:
            if unit == "s":
                value, unit = to_ms(value), "ms"
            self.event(Family.METRIC, event_id, {"metric_type": metric_type, "value": value, "unit": unit, **more})

    def recording(self, track: str, url: str | None, **more: JsonValue) -> None:
        """Add a recording, if there is a URL; the first one is the call's own."""
        if url is not None:
            self.event(Family.RECORDING, track, {"recording_url": url, "track": track, **more})
            if "recording_url" not in self.fields:
                self.state(recording_url=url, recording_enabled=True)

    def kept(self, event_id: str, rest: JsonValue) -> None:
        """Keep what was not understood, in an event of the provider's own family."""
        if rest not in (None, [], {}, ""):
            event: Mapping[str, JsonValue] = rest if isinstance(rest, dict) else {"value": rest}
            # As it came: what is empty in it says something there.
            self.event(self.provider, event_id, event)

    def news(self, *, ended: bool, reason: str) -> News:
        """All of it."""
        return News(self.call_sid, self.fields, ended=ended, reason=f"{self.provider} {reason}" if ended else "")


def usd_in_cents(amount: float | None) -> float | None:
    """Dollars as cents, without the dust that floats leave."""
    return None if amount is None else as_amount(Decimal(str(amount)) * 100)


def as_amount(number: float | Decimal | None) -> float | None:
    """An amount as a column of money can hold it; None for one that it cannot."""
    amount = None if number is None else Decimal(str(number))
    if amount is None or abs(amount) > _WIDEST_AMOUNT:
        return None
    return float(amount.quantize(_SMALLEST_AMOUNT))


def to_ms(seconds: float) -> float:
    """Seconds as milliseconds, without the dust that floats leave."""
    return float(Decimal(str(seconds)) * 1000)


def later(moment: str | float | None, seconds: float | None) -> str | None:
    """The time so many seconds after `moment`; None if either is not known or no such time is."""
    if moment is None or seconds is None:
        return None
    try:
        found: datetime = parse_time(moment) + timedelta(seconds=seconds)
        return parse_time(found.isoformat()).isoformat()
    except (ValueError, OverflowError):
        return None
