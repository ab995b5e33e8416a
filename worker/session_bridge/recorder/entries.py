"""What the recorder holds until Redis has acknowledged it: entries, in the order in which they were recorded."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import NamedTuple

from session_bridge.contract.fields import FinalizedBy


class Kind(IntEnum):
    """What an entry does to the live session."""

    OPEN = 0
    """Begin the call: `value` is its start."""
    FIELD = 1
    """Set a state or document field; the newest value is the one that counts."""
    EVENT = 2
    """Add an event; its id is its own, so the order does not matter."""
    RESUME = 3
    """Take a pending request for a drain back; `value` is the latest epoch millisecond it may be due at."""
    ASK = 4
    """Ask for the drain: `value` is the `Request` as JSON."""


class Line:
    """One call that is being recorded. It is the recorder's own: once that is gone, its heart stops."""

    __slots__ = ("__weakref__", "announced", "lost", "sid", "ttl_seconds")

    def __init__(self, sid: str, ttl_seconds: int) -> None:
        self.sid = sid
        self.ttl_seconds = ttl_seconds
        self.announced = False
        """Whether the books have been told of this call."""
        self.lost = 0
        """How many entries Redis will not hold: refused by it, or dropped for want of room."""


class Entry(NamedTuple):
    """One thing to do. `at` is when it was recorded, as ISO 8601 text in UTC of fixed width, so that it sorts."""

    kind: Kind
    line: Line
    name: str
    value: bytes
    at: str


def touch(line: Line, at: str) -> Entry:
    """A heartbeat: the call lives, whatever else is known of it."""
    return Entry(Kind.FIELD, line, "last_activity_at", at.encode(), at)


class Request(NamedTuple):
    """A drain asked for: why, by whom, and when it is due (epoch milliseconds)."""

    reason: str | None
    by: FinalizedBy
    due_ms: int

    def dump(self) -> bytes:
        """As the value of an entry."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def load(cls, value: bytes) -> Request:
        """Back from the value of an entry; raises ValueError if it is not one."""
        match json.loads(value):
            case {"reason": str() | None as reason, "by": str() as by, "due_ms": int() as due_ms}:
                return cls(reason, FinalizedBy(by), due_ms)
        raise ValueError("not a request for a drain")


def dump(entry: Entry) -> bytes:
    """`entry` as one line of a spool file, without its line feed."""
    return json.dumps(
        {
            "kind": entry.kind.name.lower(),
            "call_sid": entry.line.sid,
            "ttl_seconds": entry.line.ttl_seconds,
            "name": entry.name,
            "value": entry.value.decode(errors="surrogateescape"),
            "at": entry.at,
        }
    ).encode()


def load(text: bytes, lines: dict[str, Line]) -> Entry:
    """The entry of one line of a spool file; raises ValueError if it is damaged.

    `lines` gathers the calls that were met, so that the entries of one call share theirs.
    """
    match json.loads(text):
        case {
            "kind": str() as kind,
            "call_sid": str() as sid,
            "ttl_seconds": int() as ttl_seconds,
            "name": str() as name,
            "value": str() as value,
            "at": str() as at,
        } if kind.upper() in Kind.__members__:
            if sid not in lines:
                lines[sid] = Line(sid, ttl_seconds)
            entry = Entry(Kind[kind.upper()], lines[sid], name, value.encode(errors="surrogateescape"), at)
            if entry.kind is Kind.ASK:
                Request.load(entry.value)
            return entry
    raise ValueError("not a line of a spool file")
