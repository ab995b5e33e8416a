"""The flushers of this process: one for each event loop, Redis, deployment and pace."""

from __future__ import annotations

import asyncio
import atexit
import os
from pathlib import Path

from redis.asyncio import Redis

from session_bridge.contract.keys import Keys
from session_bridge.recorder.config import address_of, connect
from session_bridge.recorder.flusher import Flusher, Pace, working
from session_bridge.recorder.spool import Spool, home_of

_Key = tuple[int, str | int, Keys, Pace, Path]
_flushers: dict[_Key, Flusher] = {}


def flusher_for(redis: str | Redis, keys: Keys, pace: Pace, directory: Path) -> Flusher:
    """The flusher of the running loop for this Redis, shared by all recorders that agree on the rest.

    `redis` is a URL or a client; a client stays the caller's to close. Raises RuntimeError outside an event loop.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("make a CallRecorder inside the event loop that it is to record in") from None
    _tidy()
    key = (id(loop), redis if isinstance(redis, str) else id(redis), keys, pace, directory)
    flusher = _flushers.get(key)
    if flusher is None:
        client = connect(redis) if isinstance(redis, str) else redis
        spool = Spool(home_of(directory, address_of(client), keys.prefix, keys.namespace))
        # What a flusher's own connections carry it knows by heart; others have to have another.
        beside = connect(redis) if isinstance(redis, str) else None
        flusher = Flusher(client, owned=isinstance(redis, str), keys=keys, pace=pace, spool=spool, beside=beside)
        _flushers[key] = flusher
    return flusher


def _tidy() -> None:
    """Let go of flushers that have nothing left to do, and save what those of closed loops still hold."""
    for key, flusher in list(_flushers.items()):
        if flusher.loop.is_closed():
            flusher.spool_now()
            del _flushers[key]
        elif flusher.closed or (flusher.idle and not flusher.live):
            del _flushers[key]


def _save_all() -> None:
    """At the end of the process: what never reached Redis goes to disk."""
    for flusher in {*_flushers.values(), *working}:
        flusher.spool_now()


def _leave_to_parent() -> None:
    for flusher in {*_flushers.values(), *working}:
        flusher.abandon()
    _flushers.clear()
    working.clear()


atexit.register(_save_all)
os.register_at_fork(after_in_child=_leave_to_parent)
