"""A provider's request as it came in, and its body taken apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from pydantic import JsonValue

from session_bridge.errors import UnreadableCallbackError
from session_bridge.webhooks.multipart import form_of
from session_bridge.webhooks.news import News

Body: TypeAlias = Mapping[str, JsonValue]

_MOST_FORM_FIELDS = 1000


@dataclass(frozen=True, slots=True)
class Callback:
    """One request: its body as it came, byte for byte, and the URL as its sender knows it.

    `headers` are by their names in small letters; `secret` is the last part of a path that ends in one; `address` is
    the sender's, empty if that is not known.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    secret: str = ""
    address: str = ""

    def header(self, name: str) -> str:
        """The header of that name, empty if there is none."""
        return self.headers.get(name.lower(), "")

    @property
    def is_json(self) -> bool:
        """Whether the body says that it is JSON, or looks like it and does not say that it is a form."""
        kind = self._kind
        if kind == "application/json" or kind.endswith("+json"):
            return True
        return kind != "application/x-www-form-urlencoded" and self.body.lstrip()[:1] == b"{"

    @property
    def _kind(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    def form(self) -> list[tuple[str, str]]:
        """The body's form fields in their order; raises UnreadableCallbackError if it is none."""
        try:
            if self._kind == "multipart/form-data":
                return form_of(self.body, self.header("content-type"), _MOST_FORM_FIELDS)
            return parse_qsl(self.body.decode(), keep_blank_values=True, max_num_fields=_MOST_FORM_FIELDS)
        except ValueError as error:
            raise UnreadableCallbackError(
                "the body is no form: it has to be whole, and UTF-8 with at most 1,000 fields"
            ) from error

    def query(self) -> list[tuple[str, str]]:
        """The URL's parameters in their order; raises UnreadableCallbackError if there are too many."""
        try:
            return parse_qsl(urlsplit(self.url).query, keep_blank_values=True, max_num_fields=_MOST_FORM_FIELDS)
        except ValueError as error:
            raise UnreadableCallbackError("the URL cannot be read, or has more than 1,000 parameters") from error

    def json(self) -> dict[str, JsonValue]:
        """The body's JSON object; raises UnreadableCallbackError if it is none."""
        try:
            value = json.loads(self.body, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise UnreadableCallbackError("the body is not JSON in UTF-8") from error
        if not isinstance(value, dict):
            raise UnreadableCallbackError("the body is JSON, but no object")
        return value

    def fields(self) -> dict[str, JsonValue]:
        """What a provider says that posts forms: the form, or the JSON of those who have it so, or a GET's parameters.

        Of several fields of one name, the first counts.
        """
        if self.method == "GET":
            pairs = self.query()
        elif self.is_json:
            return self.json()
        else:
            pairs = self.form()
        return dict(reversed(pairs))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


class Provider(Protocol):
    """What each provider's module has: how its requests are known, and what they say."""

    @property
    def name(self) -> str:
        """What the live session's `provider` and `status_by` say."""

    @property
    def path(self) -> str:
        """Where its requests come in, below the application's own path."""

    @property
    def methods(self) -> tuple[str, ...]:
        """How they come."""

    def verify(self, callback: Callback) -> None:
        """Raise UntrustedCallbackError unless the request is the provider's, and is so now."""

    def read(self, callback: Callback) -> Body:
        """The body taken apart; raises UnreadableCallbackError."""

    def understand(self, body: Body) -> list[News]:
        """What the body says of which calls; raises UnreadableCallbackError."""
