"""How the calls of a deployment fare."""

from __future__ import annotations

import time

from session_bridge.contract.ids import now
from session_bridge.doctor.checks import Answer, Check, Patient, advice, ok, problem, spell
from session_bridge.live.overview import Overview
from session_bridge.live.scan import Look, SessionScan

_OVERDUE_LEASES = 10
_PAGES, _SESSIONS_LOOKED_AT, _SCAN_SECONDS = 50, 2000, 3.0

_DEAD = "SELECT count(*), min(died_at) FROM dead_sessions WHERE retried_at IS NULL"
_LOST = "SELECT count(*) FROM call_sids WHERE state = 'lost' AND archived_at > now() - interval '1 day'"


async def _workers(patient: Patient) -> Answer:
    waiting = await Overview(patient.redis, patient.keys).waiting()
    if waiting.workers:
        return ok(f"{waiting.workers} seen within the last seconds")
    do = "start `session-bridge worker`, with these settings"
    return problem("none, and calls wait", do) if waiting.due else advice("none", do)


async def _sweeps(patient: Patient) -> Answer:
    """Whether the workers' sweep goes on. One that runs from a cron leaves no trace of its own."""
    _, began = await SessionScan(patient.redis, patient.keys).place()
    workers = (await Overview(patient.redis, patient.keys).waiting()).workers
    by_hand = "start a worker, or see that `session-bridge sweep` runs from a cron"
    if not began:
        return advice("no worker has ever swept here", by_hand)
    age = now().timestamp() - began
    found = f"the workers' present round through the keys began {spell(age)} ago"
    if age <= max(10 * patient.settings.sweep_seconds, patient.settings.ttl_seconds / 3):
        return ok(found)
    if workers:
        return problem(found, "look at the workers' log; if their rounds are too slow, raise SESSION_BRIDGE_SWEEP_KEYS")
    return advice(found, by_hand)


async def _backlog(patient: Patient) -> Answer:
    waiting = await Overview(patient.redis, patient.keys).waiting()
    lease = patient.settings.lease_seconds
    found = (
        f"{waiting.due} due, the oldest for {spell(waiting.oldest_seconds)}; {waiting.later} later, "
        f"{waiting.leased} in work, {waiting.checkpoints} checkpoints"
    )
    do = "look at the workers' log (worker.waiting says why they wait); if they are busy, start more"
    if waiting.oldest_seconds > _OVERDUE_LEASES * lease:
        return problem(found, do)
    return advice(found, do) if waiting.oldest_seconds > lease else ok(found)


async def _sessions(patient: Patient) -> Answer:
    """Sessions that would stay for ever, or go before a sweep can see them, in a sample of the keys."""
    looks, whole = await _sample(patient)
    sweep = patient.settings.sweep_seconds
    idle = [look for look in looks if not look.waiting]
    kept = sum(look.ttl_seconds is None for look in idle)
    short = sum(look.ttl_seconds is not None and look.ttl_seconds < 2 * sweep for look in idle)
    _, round_began = await SessionScan(patient.redis, patient.keys).place()
    found = f"{len(looks)} {'live sessions' if whole else 'of the live sessions'}"
    if short:
        return advice(
            f"{found}; {short} expire within two sweeps and nobody has asked for their drain",
            f"run `session-bridge sweep` now; let writers EXPIRE by {patient.settings.ttl_seconds} s or more",
        )
    if kept and now().timestamp() - round_began > patient.settings.ttl_seconds:
        return advice(
            f"{found}; {kept} have no TTL, nobody has asked for their drain, and no worker sweeps",
            "start a worker or run `session-bridge sweep`: else they stay for ever",
        )
    return ok(f"{found}; {kept} without TTL that the sweep watches" if kept else f"{found}; none is forgotten")


async def _sample(patient: Patient) -> tuple[list[Look], bool]:
    """Some live sessions of ours, and whether they are all."""
    scan = SessionScan(patient.redis, patient.keys)
    looks: list[Look] = []
    cursor, deadline = 0, time.monotonic() + _SCAN_SECONDS
    for _ in range(_PAGES):
        page = await scan.page(cursor)
        found = await scan.look(page.call_sids)
        await scan.count_events([look for look in found if not look.is_ours])
        looks += [look for look in found if look.is_ours]
        cursor = page.cursor
        if not cursor or len(looks) >= _SESSIONS_LOOKED_AT or time.monotonic() > deadline:
            break
    return looks, not cursor


async def _dead(patient: Patient) -> Answer:
    async with patient.archive() as connection:
        [[count, earliest]] = await (await connection.execute(_DEAD)).fetchall()
    if count:
        found = f"{count} could not be archived and wait for somebody, the first since {earliest:%Y-%m-%d %H:%M}"
        return problem(found, "`session-bridge dead list`, mend the cause, then `session-bridge dead retry ID`")
    return ok("none")


async def _lost(patient: Patient) -> Answer:
    async with patient.archive() as connection:
        [[count]] = await (await connection.execute(_LOST)).fetchall()
    if count:
        found = f"{count} disappeared from Redis undrained within the last day"
        return problem(found, "look at evictions, restarts, flushes and the writers' TTLs")
    return ok("none within the last day")


CALLS_CHECKS = (
    Check("calls.workers", "workers", _workers),
    Check("calls.sweep", "sweep", _sweeps),
    Check("calls.waiting", "calls that wait", _backlog),
    Check("calls.sessions", "live sessions", _sessions),
    Check("calls.dead", "dead sessions", _dead),
    Check("calls.lost", "lost sessions", _lost),
)
"""In the order in which they are shown."""
