"""What a provider is asked of a call, and what can come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pydantic import JsonValue


class Word(StrEnum):
    """A provider's answer in one word. Whatever is not plainly `live` or `ended` is `unknown`."""

    LIVE = "live"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Question:
    """A call to be asked about; what its session does not say is an empty text."""

    call_sid: str
    account_sid: str = ""
    room_name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered.

    `why` is for the log: our own words, none of the provider's. `facts` are fields of the live session as the contract
    has them, known only of a call that has ended. `settles_after` is given where a provider that serves us does not
    know the call: for how many seconds it must go on not knowing it before it counts as nobody's. `pause_seconds` is
    how long this provider should be left alone, and `refused` says that it does not accept our credentials.
    """

    word: Word
    why: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    settles_after: float | None = None
    pause_seconds: float = 0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What came over HTTP from a provider that serves us: a status of 200 or 404, and a JSON object."""

    status: int
    body: Mapping[str, JsonValue]


class Line(Protocol):
    """The way to a provider's API."""

    async def get(
        self, url: str, *, user: str, password: str, query: Mapping[str, str] | None = None
    ) -> Reply | Answer:
        """GET with HTTP basic authentication; an Answer, always `unknown`, if nothing usable came back."""

    async def post(self, url: str, *, token: str, body: Mapping[str, JsonValue]) -> Reply | Answer:
        """POST of a JSON object with a bearer token; an Answer, always `unknown`, if nothing usable came back."""


class Provider(Protocol):
    """A provider that can be asked."""

    @property
    def name(self) -> str:
        """The provider's name, as in the live session's field `provider`."""

    def can_ask(self, question: Question) -> bool:
        """Whether this question names its call so that the provider can find it."""

    async def ask(self, question: Question) -> Answer:
        """Whether the call lives. Never raises for what the provider does."""

    async def try_credentials(self) -> Answer:
        """Ask for something harmless: `live` if the provider serves us, `refused` if it does not accept us."""


def unknown(why: str, *, settles_after: float | None = None) -> Answer:
    """An answer that tells nothing of the call."""
    return Answer(Word.UNKNOWN, why, settles_after=settles_after)


def text_of(body: Mapping[str, JsonValue], name: str) -> str:
    """A text in a reply's body; empty if there is none."""
    value = body.get(name)
    return value.strip() if isinstance(value, str) else ""
