"""A JSON object taken apart: each value is taken once, by who understands it, and the rest is told at the end."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from pydantic import JsonValue

from session_bridge.contract.times import parse_time

_EMPTY: tuple[JsonValue, ...] = (None, "", [], {})
_WIDEST = 1e13
"""No measure, count or price of a call is larger, and every column that takes one can hold it."""


class Part:
    """An object of a report.

    A value that is taken is what it should be; one that is not stays where it is, and so in the rest. `look…` methods
    do not take: they are for values of which only a meaning is wanted, so that the word itself is kept in the rest.
    """

    def __init__(self, value: JsonValue | Mapping[str, JsonValue] = None) -> None:
        """Whatever is no object is an empty one."""
        self._rest = dict(value) if isinstance(value, Mapping) else {}
        self._parts: dict[str, Part] = {}

    def text(self, name: str) -> str | None:
        """Take a text that is not blank."""
        return self._rest.pop(name) if self.look_text(name) is not None else None  # type: ignore[return-value]  # looked at

    def look_text(self, name: str) -> str | None:
        """A text that is not blank."""
        value = self._rest.get(name)
        return value if isinstance(value, str) and value.strip() else None

    def number(self, name: str) -> float | None:
        """Take a number that is finite and of this world."""
        number = self.look_number(name)
        if number is not None:
            del self._rest[name]
        return number

    def look_number(self, name: str) -> float | None:
        """A number that is finite and of this world."""
        return as_number(self._rest.get(name))

    def look(self, name: str) -> JsonValue:
        """Whatever is there."""
        return self._rest.get(name)

    def take(self, name: str) -> JsonValue:
        """Take whatever is there."""
        return self._rest.pop(name, None)

    def put(self, name: str, value: JsonValue) -> None:
        """Give back what was taken and not understood."""
        self._rest[name] = value

    def flag(self, name: str) -> bool | None:
        """Take a truth value."""
        value = self._rest.get(name)
        if not isinstance(value, bool):
            return None
        del self._rest[name]
        return value

    def moment(self, name: str) -> str | float | None:
        """Take a time, as it came: text or a number that the contract reads as one."""
        moment = self.look_moment(name)
        if moment is not None:
            del self._rest[name]
        return moment

    def look_moment(self, name: str) -> str | float | None:
        """A time, as it came."""
        value = self._rest.get(name)
        return value if isinstance(value, str | int | float) and is_moment(value) else None

    def object(self, name: str) -> dict[str, JsonValue] | None:
        """Take a whole object that is not empty."""
        value = self.look_object(name)
        if value is not None:
            del self._rest[name]
        return value

    def look_object(self, name: str) -> dict[str, JsonValue] | None:
        """A copy of an object that is not empty."""
        value = self._rest.get(name)
        return dict(value) if isinstance(value, dict) and value else None

    def items(self, name: str) -> list[JsonValue]:
        """Take a list; of the items, who takes them keeps what is not understood."""
        value = self.look_items(name)
        if value:
            del self._rest[name]
        return value

    def look_items(self, name: str) -> list[JsonValue]:
        """A list, empty if there is none."""
        value = self._rest.get(name)
        return value if isinstance(value, list) else []

    def part(self, name: str) -> Part:
        """An object within this one, to be taken apart as well; what is left of it is left of this one."""
        if name not in self._parts:
            value = self._rest.get(name)
            if not isinstance(value, dict):
                return Part()
            del self._rest[name]
            self._parts[name] = Part(value)
        return self._parts[name]

    def names(self) -> list[str]:
        """The names of what was not taken yet, and is no part."""
        return list(self._rest)

    def forget(self, name: str, value: JsonValue) -> None:
        """Take what only says again what was taken elsewhere: `value`, and nothing but that."""
        if name in self._rest and self._rest[name] == value:
            del self._rest[name]

    def rest(self) -> dict[str, JsonValue]:
        """What nobody took, without the empty."""
        left = {name: value for name, value in self._rest.items() if value not in _EMPTY}
        for name, part in self._parts.items():
            if rest := part.rest():
                left[name] = rest
        return left


def as_number(value: JsonValue) -> float | None:
    """`value` if it is a number that is finite and of this world."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if -_WIDEST < value < _WIDEST and isfinite(value) else None


def is_moment(value: JsonValue) -> bool:
    """Whether the contract reads `value` as a time."""
    try:
        parse_time(value)
    except (ValueError, OverflowError):
        return False
    return True
