"""What usage costs: rates with their dates, and the exact arithmetic over them. Needs the standard library alone.

The worker rates a call with it when it is drained, and the recorder while it lives, so that both come to the same sum.
Nothing here is a binary fraction: quantities and prices are Decimals, and an amount is their exact product, rounded
once, half up, to the ten places of the archive's columns.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias, cast

from session_bridge.contract.times import EARLIEST

DEFAULT_CURRENCY = "USD"
PLACES = 10
_NONE = Decimal(0)


class Service(StrEnum):
    """What a rate is for."""

    TELEPHONY = "telephony"
    STT = "stt"
    LLM = "llm"
    TTS = "tts"


_SERVICE_WORDS = {
    Service.TELEPHONY: "telephony transport carrier phone pstn sip voip telephone",
    Service.STT: "stt asr transcriber transcription speech_to_text",
    Service.LLM: "llm language_model completion",
    Service.TTS: "tts text_to_speech speech_synthesis synthesis",
}
_SERVICES = {word: service.value for service, words in _SERVICE_WORDS.items() for word in words.split()}
WHOLE_CALL = frozenset(("total", "call", "combined", "all"))
"""Services under which a writer reports what the whole call cost."""

# A unit is so many of a measure. What was used is told in measures.
_UNITS: Mapping[str, tuple[str, int]] = {
    "second": ("second", 1),
    "minute": ("second", 60),
    "hour": ("second", 3600),
    "call": ("call", 1),
    **{
        f"{prefix}{measure}": (measure.removesuffix("s"), size)
        for prefix, size in (("1k_", 1000), ("1m_", 1_000_000))
        for measure in ("tokens", "prompt_tokens", "completion_tokens", "cached_tokens", "characters")
    },
    **{name: (name, 1) for name in ("token", "prompt_token", "completion_token", "cached_token", "character")},
}
_UNIT_WORDS = {
    "sec": "second",
    "min": "minute",
    "char": "character",
    "input_token": "prompt_token",
    "output_token": "completion_token",
    "million_token": "1m_tokens",
    "thousand_token": "1k_tokens",
    "million_character": "1m_characters",
    "thousand_character": "1k_characters",
    "thousand_char": "1k_characters",
}
UNITS = tuple(_UNITS)
# Tokens of a kind may have a price of their own, or that of all tokens.
_WIDER = {"prompt_token": "token", "completion_token": "token"}

# Processors that tell what they are and not whose.
_NAMELESS = frozenset(("llm", "stt", "tts", "llmservice", "sttservice", "ttsservice", "pipeline", "agent"))
_NOT_A_WORD = re.compile(r"[^a-z0-9]+")


def service_of(word: str) -> str:
    """The service that a writer's `word` means; an unknown one is its own."""
    plain = _plain(word)
    return _SERVICES.get(plain, plain)


def currency_of(word: str | None) -> str:
    """The currency that a writer's `word` means: a code of ISO 4217 in capitals, any other word as it is."""
    plain = (word or "").strip() or DEFAULT_CURRENCY
    return plain.upper() if len(plain) == len(DEFAULT_CURRENCY) and plain.isascii() and plain.isalpha() else plain


def unit_of(word: str) -> str:
    """The name of the unit that `word` means, in the singular and as `rates list` shows it; an unknown one is kept."""
    plain = _plain(word).removeprefix("per_")
    single = plain.removesuffix("s") if len(plain) > len("sms") else plain
    for name in (plain, single, _UNIT_WORDS.get(single, "")):
        if name in _UNITS:
            return name
    return single


def measure_of(unit: str) -> tuple[str, int]:
    """The measure that `unit` is of, and how many of it."""
    return _UNITS.get(unit, (unit, 1))


def _plain(word: str) -> str:
    return _NOT_A_WORD.sub("_", word.strip().lower()).strip("_")


def name_of(provider: str) -> str:
    """A provider's or model's name without what spelling adds to it."""
    return _NOT_A_WORD.sub("", provider.lower())


def month_of(moment: datetime) -> str:
    """The month that a spending counts in, in UTC: `2026-11`."""
    return f"{moment:%Y-%m}"


# -- rates ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit of a service costs from `valid_from` on, and before `valid_to` if that is given.

    An empty provider or model is any. For telephony the model is the call's direction, inbound or outbound. With
    `step`, usage is billed in whole steps of so many units: 1 minute, say.
    """

    service: str
    provider: str
    model: str
    unit: str
    price_cents: Decimal
    valid_from: datetime
    valid_to: datetime | None = None
    currency: str = DEFAULT_CURRENCY
    step: Decimal | None = None
    rate_id: int = 0


def amount_of(rate: Rate, quantity: Decimal) -> Decimal:
    """What `quantity` of the rate's measure costs, in cents, to ten places, halves up. Exact until that rounding."""
    _, size = measure_of(rate.unit)
    count, of = quantity.as_integer_ratio()
    of *= size
    if rate.step:
        step, step_of = rate.step.as_integer_ratio()
        steps = -(-count * step_of // (of * step))
        count, of = steps * step, step_of
    price, price_of = rate.price_cents.as_integer_ratio()
    numerator, denominator = 2 * count * price * 10**PLACES, of * price_of
    return _decimal((numerator + denominator) // (2 * denominator))


def _decimal(units: int) -> Decimal:
    """So many of the smallest unit; made from the text, for arithmetic would round to the context's digits."""
    return Decimal(f"{units}e-{PLACES}")


@dataclass(frozen=True, slots=True)
class Line:
    """One service of one provider and model: what was used, and what that comes to."""

    rate: Rate
    measure: str
    quantity: Decimal
    amount_cents: Decimal


Use: TypeAlias = "tuple[str, str, str, str]"
"""A service, a measure, a provider and a model."""


class Tariff:
    """The rates that hold at one moment."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self._by_service: dict[str, list[Rate]] = {}
        for rate in rates:
            self._by_service.setdefault(rate.service, []).append(rate)
        self.services = frozenset(self._by_service)
        """The services that have rates."""
        self._found: dict[Use, Rate | None] = {}

    def __bool__(self) -> bool:
        return bool(self._by_service)

    def service_of(self, word: str, provider: str = "") -> str:
        """The service that a charge under `word` is for, which may be its provider's name."""
        service = service_of(word)
        if service in self._by_service or service in _SERVICE_WORDS:
            return service
        for name in filter(None, (name_of(word), name_of(provider))):
            serves = {
                rate.service
                for rates in self._by_service.values()
                for rate in rates
                if rate.provider and name_of(rate.provider) in name
            }
            if len(serves) == 1:
                return serves.pop()
        return service

    def find(self, service: str, measure: str, provider: str, model: str) -> Rate | None:
        """The rate for a measure of a service, the one that names most of it.

        A usage that does not say whose it is, or of which model, is rated where that leaves no choice; telephony always
        has to say. None where no rate applies, or several would.
        """
        use = (service, measure, provider, model)
        if use not in self._found:
            if len(self._found) > _REMEMBERED:
                self._found.clear()
            self._found[use] = self._find(*use)
        return self._found[use]

    def _find(self, service: str, measure: str, provider: str, model: str) -> Rate | None:
        provider, model = name_of(provider), name_of(model)
        strict = service == Service.TELEPHONY
        if provider in _NAMELESS:
            provider = ""
        ranked: dict[int, list[Rate]] = {}
        for rate in self._by_service.get(service, ()):
            if measure_of(rate.unit)[0] != measure:
                continue
            whose, which = name_of(rate.provider), name_of(rate.model)
            if whose and (whose not in provider if provider or strict else False):
                continue
            if which and (which != model if model or strict else False):
                continue
            named = 2 * bool(whose and provider) + bool(which and model)
            ranked.setdefault(named, []).append(rate)
        if not ranked:
            return None
        best = ranked[max(ranked)]
        # What names nobody comes before what names one of several.
        plain = [rate for rate in best if not rate.provider and not rate.model] or best
        return plain[0] if len(plain) == 1 else None

    def lines(self, usage: Mapping[Use, Decimal]) -> list[Line]:
        """What `usage` comes to, in a fixed order; what no rate applies to is left out."""
        lines = []
        for use, given in sorted(usage.items()):
            service, measure, provider, model = use
            quantity = given
            if measure == "prompt_token":
                # Cached tokens are among those of the prompt; only a price of their own sets them apart.
                cached = usage.get((service, "cached_token", provider, model), _NONE)
                if cached and self.find(service, "cached_token", provider, model):
                    quantity = max(quantity - cached, _NONE)
            rate = self.find(*use)
            if rate is None and measure in _WIDER:
                rate = self.find(service, _WIDER[measure], provider, model)
            if rate is not None and quantity:
                lines.append(Line(rate, measure, quantity, amount_of(rate, quantity)))
        return lines


_REMEMBERED = 1000
NO_TARIFF = Tariff()


class RateBook:
    """All rates, and which of them hold when."""

    def __init__(self, rates: Iterable[Rate] = ()) -> None:
        self.rates = tuple(rates)
        moments = {EARLIEST} | {rate.valid_from for rate in self.rates}
        moments |= {rate.valid_to for rate in self.rates if rate.valid_to is not None}
        self._moments = sorted(moments)
        self._tariffs: dict[int, Tariff] = {}

    def at(self, moment: datetime) -> Tariff:
        """The rates of a moment."""
        if not self.rates:
            return NO_TARIFF
        place = bisect_right(self._moments, moment)
        if place not in self._tariffs:
            self._tariffs[place] = Tariff(
                rate
                for rate in self.rates
                if rate.valid_from <= moment and (rate.valid_to is None or moment < rate.valid_to)
            )
        return self._tariffs[place]

    def dump(self) -> str:
        """As the compact JSON in which recorders are told of it."""
        return json.dumps(
            [
                [
                    *(rate.service, rate.provider, rate.model, rate.unit, str(rate.price_cents)),
                    rate.valid_from.isoformat(),
                    rate.valid_to.isoformat() if rate.valid_to else None,
                    rate.currency,
                    None if rate.step is None else str(rate.step),
                ]
                for rate in self.rates
            ],
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str | bytes) -> RateBook:
        """Back from `dump`; raises ValueError or TypeError for what is none."""
        rates = []
        for row in cast("list[list[str | None]]", json.loads(text)):
            service, provider, model, unit, price, since, until, currency, step = row
            rates.append(
                Rate(
                    str(service),
                    str(provider),
                    str(model),
                    str(unit),
                    Decimal(str(price)),
                    datetime.fromisoformat(str(since)),
                    datetime.fromisoformat(until) if until else None,
                    str(currency),
                    Decimal(step) if step else None,
                )
            )
        return cls(rates)


NO_RATES = RateBook()
