"""One flush: entries become the commands of one pipeline, and its answers tell which calls Redis refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from redis import exceptions

from session_bridge.contract.keys import Keys
from session_bridge.recorder.entries import Entry, Kind, Line, Request
from session_bridge.recorder.scripts import Script

Argument = bytes | str | int
Command = tuple[Argument, ...]

_SCRIPTS = {"open": Script.load("open"), "merge": Script.load("times", "merge")}

# One HSET holds Redis for as long as it takes: these keep it well under a millisecond.
_PAIRS_PER_COMMAND = 500
_BYTES_PER_COMMAND = 1 << 20

# The first word of an error that tells of the server's state and not of what was written. redis-py leaves it in the
# text unless it has a class for it. https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
_STATES = frozenset(
    (
        "BUSY", "CLUSTERDOWN", "EXECABORT", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOPERM", "NOREPLICAS",
        "NOTREADY", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED", "UNKILLABLE", "WRONGPASS",
    )
)  # fmt: skip
# Before Redis 7, what the server says to a script comes with where in the script it was said, and before it.
_OF_A_SCRIPT = re.compile(r"^Error running script \(call to f_[0-9a-f]{40}\): @[^-]*: (?=-)")
_STATE_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterError,
    exceptions.NoPermissionError,
    exceptions.NoScriptError,
    OSError,
)


def is_away(error: BaseException) -> bool:
    """Whether `error` says that Redis cannot serve now, rather than that it refuses what was written."""
    if isinstance(error, _STATE_CLASSES):
        return True
    said = _OF_A_SCRIPT.sub("", str(error))
    return isinstance(error, exceptions.ResponseError) and said.partition(" ")[0].lstrip("-") in _STATES


class Batch:
    """The commands for some entries, in their order within each call.

    `aged` entries waited while Redis was away or in a file: others may have written the call since, so its state is
    merged by time instead of set.
    """

    def __init__(self, entries: Sequence[Entry], keys: Keys, *, aged: bool) -> None:
        calls: dict[str, _Call] = {}
        for entry in entries:
            sid = entry[1].sid
            call = calls.get(sid)
            if call is None:
                call = calls[sid] = _Call(entry[1])
            call.add(entry)
        self.commands: list[Command] = []
        self._owners: list[_Call | None] = []
        self._calls = calls
        # Loaded each time, and so never missing after a restart; sent once, however many calls use it.
        for name in ("open", "merge") if aged else ("open",):
            if aged or any(call.opened_at is not None for call in calls.values()):
                self.commands.append(("SCRIPT", "LOAD", _SCRIPTS[name].text))
                self._owners.append(None)
        for call in calls.values():
            commands = call.aged(keys) if aged else call.fresh(keys)
            self.commands += commands
            self._owners += [call] * len(commands)
        asked = [call.request.due_ms for call in calls.values() if call.request]
        if asked:
            self.commands.append(("PUBLISH", keys.wake, min(asked)))

    def refused(self, answers: Sequence[object]) -> dict[str, Exception]:
        """The call SIDs whose commands Redis refused, each with the first reason.

        Raises the error if one of `answers` is an error of Redis's state: then nothing is known to be written.
        """
        # Nobody owns the wake at the end, and it may fail, by a user's rights for one: workers look by themselves too.
        owned = zip(self._owners, answers, strict=False)
        errors = [(call, answer) for call, answer in owned if isinstance(answer, Exception)]
        for _, error in errors:
            if is_away(error):
                raise error
        refused: dict[str, Exception] = {}
        for call, error in errors:
            # A script that could not be loaded shows at each call.
            if call is not None:
                refused.setdefault(call.line.sid, error)
        return refused

    def settle(self) -> None:
        """Note what Redis has acknowledged about the calls themselves."""
        for call in self._calls.values():
            call.line.announced = True


class _Call:
    """What one call's entries in one batch come to."""

    __slots__ = ("at", "events", "line", "opened_at", "request", "resume_until", "state")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.at = ""
        self.opened_at: bytes | None = None
        self.events: list[Entry] = []
        self.state: dict[str, Entry] = {}
        self.resume_until: bytes | None = None
        self.request: Request | None = None

    def add(self, entry: Entry) -> None:
        kind, _, name, value, self.at = entry
        if kind is Kind.EVENT:
            self.events.append(entry)
        elif kind is Kind.FIELD:
            self.state[name] = entry
        elif kind is Kind.OPEN:
            self.opened_at = value
        elif kind is Kind.RESUME:
            self.resume_until, self.request = value, None
        elif kind is Kind.ASK:
            self.request = Request.load(value)

    def fresh(self, keys: Keys) -> list[Command]:
        """Plain writes. State comes in one command with `last_activity_at`, after all else or with the last of it.

        So if the connection breaks anywhere, `last_activity_at` is never newer than a state that was not written, and
        the merge which follows can trust it.
        """
        line, key = self.line, keys.session(self.line.sid)
        commands = list(self._opening(key))
        *full, rest = _chunks(self.events) if self.events else [[]]
        commands += [("HSET", key, *pairs) for pairs in full]
        state: list[Argument] = []
        for name, entry in self.state.items():
            if name != "last_activity_at":
                state += (name, entry.value)
        request = self.request
        if request is not None:
            if request.reason is not None:
                state += ("finalize_reason", request.reason)
            state += ("finalized_by", request.by.value)
        commands.append(("HSET", key, *rest, *state, "last_activity_at", self.at))
        if request is None:
            commands.append(("EXPIRE", key, line.ttl_seconds))
        if not line.announced:
            commands.append(self._announcement(keys))
        # The hash first, the ready set after: a drain that runs in between then finds something unread.
        if self.resume_until is not None:
            commands.append(("ZREM", keys.ready, line.sid))
        if request is not None:
            commands.append(("PERSIST", key))
            commands.append(("ZADD", keys.ready, "LT", request.due_ms, line.sid))
        return commands

    def aged(self, keys: Keys) -> list[Command]:
        """Events are written as they are, for their ids are their own; the rest is merged by a script."""
        line, key, request = self.line, keys.session(self.line.sid), self.request
        state: list[Argument] = []
        for name, entry in self.state.items():
            if name != "last_activity_at":
                state += (name, entry.value, entry.at)
        return [
            *self._opening(key),
            *[("HSET", key, *pairs) for pairs in _chunks(self.events)],
            (
                *("EVALSHA", _SCRIPTS["merge"].digest, 2, key, keys.ready),
                *(line.sid, self.at, line.ttl_seconds),
                *("" if request is None else request.due_ms, self.resume_until or ""),
                *("" if request is None else request.reason or "", "" if request is None else request.by.value),
                *state,
            ),
            self._announcement(keys),
        ]

    def _opening(self, key: str) -> Iterator[Command]:
        if self.opened_at is not None:
            yield ("EVALSHA", _SCRIPTS["open"].digest, 1, key, self.opened_at)

    def _announcement(self, keys: Keys) -> Command:
        opened = int(datetime.fromisoformat(self.at).timestamp() * 1000)
        return ("ZADD", keys.opened, "NX", opened, self.line.sid)


def _chunks(events: Iterable[Entry]) -> Iterator[list[Argument]]:
    pairs: list[Argument] = []
    size = 0
    for entry in events:
        pairs += (entry[2], entry[3])
        size += len(entry[3])
        if len(pairs) >= 2 * _PAIRS_PER_COMMAND or size >= _BYTES_PER_COMMAND:
            yield pairs
            pairs, size = [], 0
    if pairs:
        yield pairs
