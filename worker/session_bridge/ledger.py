"""The books of a deployment: every call SID ever seen, and the one place where each stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from session_bridge.archive.book import standing, states, unsettled
from session_bridge.service import Bridge

_AT_ONCE = 1000
_MOST_OPENED = 1_000_000


@dataclass(slots=True)
class Ledger:
    """How many call SIDs stand where; `on_hold` counts those among `due` whose sessions have no TTL.

    `missing` are SIDs that the book believes alive and whose sessions are gone: nobody has drained them, nobody asks
    for it, and no sweep has found it out yet.
    """

    opened: int = 0
    live: int = 0
    checkpointed: int = 0
    due: int = 0
    on_hold: int = 0
    archived: int = 0
    dead: int = 0
    lost: int = 0
    retired: int = 0
    missing: list[str] = field(default_factory=list)

    @property
    def balances(self) -> bool:
        """Whether every SID ever seen stands somewhere."""
        places = (self.live, self.checkpointed, self.due, self.archived, self.dead, self.lost, self.retired)
        return not self.missing and self.opened == sum(places)


async def take_ledger(bridge: Bridge, progress: Callable[[int], None] = lambda _: None) -> Ledger:
    """Add up the books as they stand now.

    Redis and the archive are read one after the other while work goes on, so a call that looks missing is looked at
    once more before it is called so.
    """
    asked = await bridge.overview.asked()
    opened = set(await bridge.scan.opened(_MOST_OPENED))
    counts = await states(bridge.connections)
    known = await standing(bridge.connections, list(asked | opened))
    missing = await _missing(bridge, asked, progress)
    for sid in (asked & known.keys()) | missing.keys():
        counts[known[sid] if sid in known else missing[sid]] -= 1
    unknown = (asked | opened) - known.keys()
    return Ledger(
        opened=sum(counts.values()) + len(asked | unknown | missing.keys()),
        live=counts.get("live", 0) + len(unknown - asked),
        checkpointed=counts.get("checkpointed", 0),
        due=len(asked),
        on_hold=await bridge.overview.on_hold(asked),
        archived=counts.get("archived", 0),
        dead=counts.get("dead", 0),
        lost=counts.get("lost", 0),
        retired=counts.get("retired", 0),
        missing=sorted(missing),
    )


async def _missing(bridge: Bridge, asked: set[str], progress: Callable[[int], None]) -> dict[str, str]:
    """Calls believed alive, by their state in the book, whose sessions are gone and that nobody asks for."""
    suspects: list[str] = []
    looked, after = 0, ""
    while page := await unsettled(bridge.connections, after, _AT_ONCE):
        suspects += await bridge.overview.gone([sid for sid in page if sid not in asked])
        looked, after = looked + len(page), page[-1]
        progress(looked)
    if not suspects:
        return {}
    # One that was drained since is no longer alive in the book, or is asked for by now.
    asked_now = await bridge.overview.asked()
    now = await standing(bridge.connections, suspects)
    return {sid: state for sid, state in now.items() if state in ("live", "checkpointed") and sid not in asked_now}
