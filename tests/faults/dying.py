"""Runs `session-bridge`, or a recorder, and kills its own process at a named point: `dying.py POINT COMMAND…`.

The product knows nothing of this: here its functions are wrapped from the outside before the command begins.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from session_bridge import cli
from session_bridge.archive import dead, writer
from session_bridge.drain import drainer, money, trouble
from session_bridge.live.scan import SessionScan
from session_bridge.live.sessions import LiveSessions
from session_bridge.live.watch import Watch
from session_bridge.recorder import CallRecorder
from session_bridge.recorder.delivery import Delivery
from session_bridge.recorder.spool import Spool
from session_bridge.sweep import sweeper


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def always(*_: Any) -> bool:
    return True


def after(owner: Any, name: str, when: Callable[..., bool] = always) -> None:
    """Die when `owner.name` has done its work; `when` sees its result and arguments."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        result = await original(*arguments, **named)
        if when(result, *arguments):
            die()
        return result

    setattr(owner, name, wrapped)


def before(owner: Any, name: str, when: Callable[..., bool] = always) -> None:
    """Die instead of `owner.name`."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            die()
        return await original(*arguments, **named)

    setattr(owner, name, wrapped)


def before_plainly(owner: Any, name: str) -> None:
    """Die instead of `owner.name`, which is called in a thread."""
    setattr(owner, name, lambda *_: die())


def is_a_claim(result: Any, *_: Any) -> bool:
    return bool(result.taken)


def ends_a_claim(_: Any, claim: Any, how: str) -> bool:
    return how in ("done", "empty")


def is_of_the_dead(_: Any, entries: Any) -> bool:
    return bool(entries[0].line.sid == "CAkilled")


POINTS: dict[str, Callable[[], None]] = {
    # a drain, in the order of its steps
    "claimed": lambda: after(LiveSessions, "claim", is_a_claim),
    "read": lambda: after(Watch, "read"),
    "locked": lambda: after(writer, "ask_to_advance"),
    "written": lambda: after(writer, "_keep_rejects"),
    "committed": lambda: after(drainer, "write"),
    "let go field by field": lambda: before(LiveSessions, "settle", ends_a_claim),
    "released": lambda: after(LiveSessions, "release"),
    "settled": lambda: after(LiveSessions, "settle", lambda _, __, ___, how: how in ("done", "empty")),
    # the money of a drain
    "credits settled": lambda: after(money, "settle"),
    "budget added up": lambda: after(money, "add_up"),
    "money told": lambda: after(money.Money, "committed"),
    # a sweep
    "opened entered": lambda: before(SessionScan, "forget_opened"),
    "met": lambda: after(SessionScan, "look", lambda looks, *_: bool(looks)),
    "held": lambda: after(SessionScan, "hold", lambda _, __, sids: bool(sids)),
    "asked": lambda: after(SessionScan, "request", lambda _, __, reasons: bool(reasons)),
    "checkpoints asked": lambda: after(SessionScan, "request_checkpoints", lambda _, __, sids, *___: bool(sids)),
    "noted": lambda: after(sweeper, "note_seen"),
    # a dead-letter
    "attempt counted": lambda: after(LiveSessions, "count_attempt"),
    "dead fields kept": lambda: after(dead, "run", lambda _, __, name: name == "keep_dead_fields"),
    "dead entered": lambda: after(trouble, "bury"),
    "death told": lambda: after(trouble, "enter"),
    # the replay of a spool
    "replay begins": lambda: before(Delivery, "bring", is_of_the_dead),
    "replay sent": lambda: after(Delivery, "bring", lambda _, *arguments: is_of_the_dead(*arguments)),
    "replay forgotten": lambda: before_plainly(Spool, "remove"),
}


async def replay() -> None:
    """A recorder that finds what a dead process left: its first word makes it look."""
    recorder = CallRecorder("CAother")
    recorder.record_message("user", "still there?")
    await recorder.end()
    await asyncio.sleep(60)


if __name__ == "__main__":
    POINTS[sys.argv.pop(1)]()
    if sys.argv[1:] == ["replay"]:
        asyncio.run(replay())
    else:
        cli.main()
