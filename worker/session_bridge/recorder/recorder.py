"""The recorder of one call: what the session manager holds while the call lives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.asyncio import Redis

from session_bridge.contract.budget import Budget
from session_bridge.contract.fields import FinalizedBy
from session_bridge.contract.keys import Keys, check_call_sid
from session_bridge.recorder import config
from session_bridge.recorder.budget import BudgetWatch, OnBudget
from session_bridge.recorder.entries import Entry, Kind, Line, Request
from session_bridge.recorder.events import EventMethods, Time
from session_bridge.recorder.flusher import Pace
from session_bridge.recorder.moments import MOMENTS
from session_bridge.recorder.registry import flusher_for
from session_bridge.recorder.snapshot import event_id_of, json_bytes, state_bytes, text_bytes

# A call's end waits no longer than these together; when Redis is known to be away, waiting for it has little point.
_LAST_FLUSH_SECONDS = 3.0
_LAST_FLUSH_SECONDS_AWAY = 0.5
_LAST_MOVE_SECONDS = 1.0
_RESUME_SECONDS = 5.0
_LAST_LOOK_SECONDS = 0.25

# Looking a member up in its enum costs as much as a call.
_EVENT = Kind.EVENT

_NOT_OVER = frozenset(("queued", "initiated", "ringing", "answered", "active", "in-progress", "in_progress"))


class CallRecorder(EventMethods):
    """Writes one call's live session to Redis while the call goes on.

    All `record_*`, `set`, `update_*` and `heartbeat` are plain calls: they neither wait nor raise because of data or
    Redis. A task in the background, shared by all calls of the event loop, writes what they recorded::

        async with CallRecorder("CA1234", provider="twilio", from_number="+15550100") as call:
            call.record_message("user", "Hello?")

    When the block ends, the call is over and its drain is asked for; when it ends by an exception, the caller may come
    back within the grace. While Redis is away, what is recorded waits in memory and then on disk; nothing is lost by
    that, and nothing is raised.
    """

    __slots__ = (
        "_ended_at",
        "_final_status",
        "_finished",
        "_flusher",
        "_grace",
        "_line",
        "_opened",
        "_recording_id",
        "_recordings",
        "_state",
        "_watch",
    )

    def __init__(
        self,
        call_sid: str,
        *,
        redis: str | Redis | None = None,
        keys: Keys | None = None,
        ttl_seconds: int | None = None,
        grace_seconds: float | None = None,
        flush_interval: float = 0.05,
        flush_events: int = 100,
        heartbeat_seconds: float = 15.0,
        buffer_events: int = 10_000,
        spool_dir: str | Path | None = None,
        budget: Budget | None = None,
        on_budget: OnBudget | None = None,
        budget_seconds: float = 1.0,
        **state: object,
    ) -> None:
        """Make the recorder of `call_sid`, inside the event loop that it is to record in.

        Args:
            call_sid: 1 to 255 characters that name this call and no other.
            redis: a URL, or a client, which stays yours to close; `REDIS_URL` if left out.
            keys: key names; `SESSION_BRIDGE_KEY_PREFIX` and `SESSION_BRIDGE_NAMESPACE` if left out.
            ttl_seconds: how long the hash lives after the last write; `SESSION_BRIDGE_TTL_SECONDS` or 3600.
            grace_seconds: how long a call that broke off may be resumed; `SESSION_BRIDGE_GRACE_SECONDS` or 15.
            flush_interval: seconds from the first record to its write, at most.
            flush_events: as many records, of all calls, are written without waiting for the interval.
            heartbeat_seconds: how often a silent call says that it lives.
            buffer_events: as many records, of all calls, are held in memory while Redis is away; more go to disk.
            spool_dir: where on disk; `SESSION_BRIDGE_SPOOL_DIR`, or a folder below the user's state.
            budget: limits for this call, in place of those that the worker publishes for its `user_id`.
            on_budget: called once, in the event loop, when a limit is near, and once when it is reached.
            budget_seconds: how often the call's cost is looked at, if either is given.
            state: state fields and documents to begin with, as for `set`.

        Raises:
            ValueError: the call SID or a setting cannot be used, or no Redis is named.
            RuntimeError: no event loop is running.
        """
        self._line = Line(check_call_sid(call_sid), config.ttl_or_default(ttl_seconds))
        self._grace = config.grace_or_default(grace_seconds)
        self._flusher = flusher_for(
            redis if isinstance(redis, Redis) else config.url_or_default(redis),
            config.keys_or_default(keys),
            Pace(flush_interval, flush_events, heartbeat_seconds, buffer_events),
            config.directory_or_default(spool_dir),
        )
        self._flusher.live.add(self._line)
        self._state = {name: state_bytes(value) for name, value in state.items() if value is not None}
        self._opened = False
        self._finished = False
        self._final_status = _final(state.get("status"))
        self._ended_at = "ended_at" in self._state
        self._recordings: dict[str, dict[str, object]] = {}
        self._recording_id: str | None = None
        self._watch: BudgetWatch | None = None
        if budget is not None or on_budget is not None:
            user, tenant = state.get("user_id"), state.get("tenant_id")
            self._watch = BudgetWatch(
                self._line,
                self._flusher.beside,
                self._flusher.keys,
                user=(str(tenant or ""), str(user)) if user else None,
                budget=budget,
                tell=on_budget,
                every_seconds=budget_seconds,
            )

    @property
    def call_sid(self) -> str:
        """The call's name."""
        return self._line.sid

    @property
    def spent_cents(self) -> Decimal | None:
        """What the call has cost as of the last look at it; None before that, or where nobody asked for its budget."""
        return self._watch.spent if self._watch else None

    # -- what is recorded ---------------------------------------------------------------------------------------

    def set(self, **fields: object) -> None:
        """Set state fields or documents; a dict or list becomes JSON, a time ISO 8601, None is left out."""
        at = MOMENTS.text()
        for name, value in fields.items():
            if value is not None:
                self._append(Kind.FIELD, text_bytes(name).decode(), state_bytes(value), at)
        if fields.get("status") is not None:
            self._final_status = _final(fields["status"])
        self._ended_at = self._ended_at or fields.get("ended_at") is not None

    def update_status(
        self,
        status: str,
        *,
        end_reason: str | None = None,
        error_message: str | None = None,
        ended_at: Time | None = None,
        **fields: object,
    ) -> None:
        """Set the call's status, in the bridge's words or the provider's, and what belongs to it."""
        self.set(status=status, end_reason=end_reason, error_message=error_message, ended_at=ended_at, **fields)

    def update_recording_info(
        self,
        *,
        recording_sid: str | None = None,
        recording_url: str | None = None,
        duration_seconds: float | None = None,
        recording_enabled: bool | None = True,
        timestamp: Time | None = None,
        channels: int | None = None,
        status: str | None = None,
        track: str | None = None,
        **fields: object,
    ) -> str | None:
        """Say what is known of a recording, as often as more is known.

        It is both the call's newest recording, in the state, and an event of its own, since a call may have several.
        The event's id comes from `recording_sid`, or else from the last one given, or else from the URL, and what was
        said of the same recording before is kept. Returns that id, or None while the recording has no name yet.
        """
        self.set(
            recording_sid=recording_sid,
            recording_url=recording_url,
            recording_duration_seconds=duration_seconds,
            recording_enabled=recording_enabled,
        )
        if recording_sid is not None:
            self._recording_id = event_id_of(recording_sid)
        event_id = self._recording_id or (recording_url and event_id_of(recording_url))
        if not event_id:
            return None
        facts = {
            "recording_sid": recording_sid,
            "recording_url": recording_url,
            "duration_seconds": duration_seconds,
            "channels": channels,
            "status": status,
            "track": track,
            "timestamp": timestamp,
            **fields,
        }
        at = MOMENTS.text()
        known = self._recordings.setdefault(event_id, {"timestamp": at})
        known.update((name, value) for name, value in facts.items() if value is not None)
        self._add_event(f"recording:{event_id}", json_bytes(known), at)
        return event_id

    def heartbeat(self) -> None:
        """Say that the call lives. The recorder does so by itself, every `heartbeat_seconds`."""
        at = MOMENTS.text()
        self._append(Kind.FIELD, "last_activity_at", at.encode(), at)

    def _add_event(self, name: str, value: bytes, at: str) -> None:
        if not self._opened:
            self._open(at)
        self._flusher.append(Entry(_EVENT, self._line, name, value, at))

    def _append(self, kind: Kind, name: str, value: bytes, at: str) -> None:
        if not self._opened:
            self._open(at)
        self._flusher.append(Entry(kind, self._line, name, value, at))

    def _saw_money(self, prefix: str, event_id: str, event: Mapping[str, object]) -> None:
        if self._watch is not None:
            self._watch.bill.saw(prefix[:-1], event_id, event)

    def _open(self, at: str) -> None:
        self._opened = True
        self._begin_watch()
        self._append(Kind.OPEN, "", at.encode(), at)
        for name, value in self._state.items():
            self._append(Kind.FIELD, name, value, at)

    def _begin_watch(self) -> None:
        if self._watch is not None:
            self._flusher.loop.call_soon_threadsafe(self._watch.start)

    # -- beginning, ending --------------------------------------------------------------------------------------

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # a timeout is an answer, not an error
        """Wait until Redis has acknowledged all that was recorded before, for at most `timeout` seconds.

        False if it has not, or if something of this call could be written neither to Redis nor, for want of room, to
        disk, or was refused.
        """
        return await self._flusher.flush(timeout) and not self._line.lost

    async def resume(self) -> Self:
        """Go on with a call that another recorder began: `call = await CallRecorder(…).resume()`.

        Takes back a drain that was asked for, and never changes when the call began. Call it before anything is
        recorded. If Redis is away, it returns after a few seconds and the rest happens when Redis is back.
        """
        at = MOMENTS.text()
        self._opened = True
        self._begin_watch()
        latest = MOMENTS.milliseconds() + round(self._grace * 1000)
        self._append(Kind.FIELD, "resumed_at", at.encode(), at)
        for name, value in self._state.items():
            if name != "started_at":
                self._append(Kind.FIELD, name, value, at)
        self._append(Kind.RESUME, "", str(latest).encode(), at)
        await self.flush(_LAST_FLUSH_SECONDS_AWAY if self._flusher.away else _RESUME_SECONDS)
        return self

    async def end(
        self,
        *,
        reason: str | None = None,
        status: str | None = None,
        end_reason: str | None = None,
        ended_at: Time | None = None,
    ) -> bool:
        """The call is over: say so, write all that is left, and ask for its drain, without grace.

        `status` is the final one that was set before, or else completed; `reason` says why the drain is asked for.
        Takes five seconds at most; True if Redis has acknowledged everything, else it waits on disk. A second call
        does nothing.
        """
        if self._finished:
            return True
        if ended_at is None and not self._ended_at:
            ended_at = MOMENTS.text()
        self.set(status=status or self._final_status or "completed", end_reason=end_reason, ended_at=ended_at)
        return await self._finish(Request(reason, FinalizedBy.STOP, MOMENTS.milliseconds()))

    async def disconnected(self, *, reason: str | None = None) -> bool:
        """The connection broke off: ask for the drain, but only after the grace, so that the call can be resumed.

        Takes five seconds at most; True if Redis has acknowledged everything, else it waits on disk.
        """
        if self._finished:
            return True
        due_ms = MOMENTS.milliseconds() + round(self._grace * 1000)
        return await self._finish(Request(reason, FinalizedBy.DISCONNECT, due_ms))

    async def _finish(self, request: Request) -> bool:
        self._finished = True
        flusher = self._flusher
        if self._watch is not None:
            # Before the drain is asked for: what is written of a call's cost after that would look like another call.
            await self._watch.stop(_LAST_LOOK_SECONDS)
        self._append(Kind.ASK, "", request.dump(), MOMENTS.text())
        flusher.live.discard(self._line)
        flusher.leaving += 1
        try:
            if await self.flush(_LAST_FLUSH_SECONDS_AWAY):
                return True
            if not flusher.away and await self.flush(_LAST_FLUSH_SECONDS):
                return True
            await flusher.move_to_disk(_LAST_MOVE_SECONDS)
        finally:
            flusher.leaving -= 1
        return False

    async def __aenter__(self) -> Self:
        if not self._opened:
            self._open(MOMENTS.text())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self.end(reason="ended")
        elif issubclass(kind, asyncio.CancelledError):
            await self.disconnected(reason="cancelled")
        else:
            # Only the type: an exception's text may quote the caller.
            await self.disconnected(reason=f"exception: {kind.__qualname__}")


def _final(status: object) -> str | None:
    return status if isinstance(status, str) and status.strip().lower() not in _NOT_OVER else None
