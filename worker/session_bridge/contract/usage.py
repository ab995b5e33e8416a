"""What a call has used: counted from its metrics, its charges and its line, and rated line by line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

from session_bridge.contract.rates import PLACES, WHOLE_CALL, Line, Service, Tariff, Use, measure_of, unit_of
from session_bridge.contract.vocabulary import MetricType

_SMALLEST = Decimal(1).scaleb(-PLACES)
_NONE = Decimal(0)
# A quantity past this is nobody's usage, and a negative one neither.
_MOST = Decimal(10**12)

_METRICS: Mapping[str, tuple[str, str]] = {
    MetricType.LLM_PROMPT_TOKENS: (Service.LLM.value, "prompt_token"),
    MetricType.LLM_COMPLETION_TOKENS: (Service.LLM.value, "completion_token"),
    MetricType.LLM_CACHED_PROMPT_TOKENS: (Service.LLM.value, "cached_token"),
    MetricType.TTS_CHARACTERS: (Service.TTS.value, "character"),
    MetricType.TTS_AUDIO_SECONDS: (Service.TTS.value, "second"),
    MetricType.STT_AUDIO_SECONDS: (Service.STT.value, "second"),
}
TRANSCRIBERS = frozenset((MetricType.STT_DELAY.value, MetricType.TRANSCRIPTION_DELAY.value))
"""The metrics of which only whose they are is of interest: whose speech recognition was at work."""
MONEY_METRICS = frozenset((*_METRICS, *TRANSCRIBERS))
"""The metrics that say what was used, or of whom."""


def metrics_of(tariff: Tariff) -> frozenset[str]:
    """Those of `MONEY_METRICS` that a tariff has rates for."""
    rated = {kind for kind, (service, _) in _METRICS.items() if service in tariff.services}
    return frozenset(rated | TRANSCRIBERS if Service.STT in tariff.services else rated)


def quantity_of(value: object) -> Decimal | None:
    """A measured number as an exact quantity to ten places; None for one that is nobody's usage.

    A binary fraction is taken for the shortest decimal that names it, which is what its writer wrote.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not number.is_finite() or not 0 <= number < _MOST:
        return None
    return number.quantize(_SMALLEST, ROUND_HALF_UP)


def seconds_of(time: timedelta) -> Decimal:
    """A stretch of time in seconds, exactly."""
    return Decimal(f"{time // timedelta(microseconds=1)}e-6")


@dataclass(frozen=True, slots=True)
class Connection:
    """The line of a call: since when it is connected and until when, whose it is, and who called whom."""

    began: datetime | None
    until: datetime | None
    provider: str = ""
    direction: str = ""

    @property
    def seconds(self) -> Decimal | None:
        """How long it was connected; None where that is not known."""
        if self.began is None or self.until is None or self.until < self.began:
            return None
        return seconds_of(self.until - self.began)


@dataclass(slots=True)
class Meter:
    """What a call has used so far, by service, measure, provider and model."""

    usage: dict[Use, Decimal] = field(default_factory=dict)
    transcriber: str | None = None
    """Whose speech recognition was at work; None as long as nothing was heard of any."""

    def add(self, service: str, measure: str, quantity: Decimal, provider: str = "", model: str = "") -> None:
        """Count some more."""
        use = (service, measure, provider, model)
        self.usage[use] = self.usage.get(use, _NONE) + quantity

    def metric(self, metric_type: str, value: object, processor: str | None, model: str | None) -> None:
        """Count what a metric reports, if it is one of `MONEY_METRICS`."""
        if metric_type in TRANSCRIBERS:
            self.transcriber = self.transcriber or processor or ""
        elif (known := _METRICS.get(metric_type)) and (quantity := quantity_of(value)) is not None:
            self.add(*known, quantity, processor or "", model or "")

    def connected(self, facts: Connection) -> None:
        """Count the time of the line, and of a speech recognition on it that did not report its own."""
        seconds = facts.seconds
        if seconds is None or not seconds:
            return
        direction = "inbound" if facts.direction.lower().startswith("in") else "outbound" if facts.direction else ""
        telephony = Service.TELEPHONY.value
        self.add(telephony, "second", seconds, facts.provider, direction)
        self.add(telephony, "call", Decimal(1), facts.provider, direction)
        stt = Service.STT.value
        reported = any(use[0] == stt and use[1] == "second" for use in self.usage)
        if self.transcriber is not None and not reported:
            self.add(stt, "second", seconds, self.transcriber)

    def charged(self, service: str, usage: Decimal, unit: str, provider: str, model: str) -> None:
        """Count a usage that was reported as such, in a unit, and has no price of its own."""
        measure, size = measure_of(unit_of(unit))
        if 0 <= usage < _MOST:
            self.add(service, measure, usage * size, provider, model)


def lines_of(tariff: Tariff, reported: Collection[str], told: Meter, used: Meter) -> Iterator[tuple[Line, bool]]:
    """What the rates say of a call, line by line, and whether it holds.

    What was `told` to be used, without a price, counts in place of what metrics and durations say was `used` of that
    service. A service whose price was `reported` costs that, and so does a whole call.
    """
    whole = not WHOLE_CALL.isdisjoint(reported)
    rated = tariff.lines(told.usage)
    services = {line.rate.service for line in rated}
    for line in rated:
        yield line, not whole
    for line in tariff.lines(used.usage):
        if line.rate.service not in services:
            yield line, not whole and line.rate.service not in reported
