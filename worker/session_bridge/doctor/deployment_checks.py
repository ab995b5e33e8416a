"""Whether the parts of a deployment fit together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from session_bridge.archive.connection import fetch
from session_bridge.contract.ids import now
from session_bridge.doctor.checks import Answer, CannotTellError, Check, Patient, advice, ok, problem, spell
from session_bridge.drain.outcome import load_outcome
from session_bridge.errors import SettingsError
from session_bridge.live.overview import Overview
from session_bridge.recorder.address import server_of
from session_bridge.service import addresses

_CLOCK_TRIES = 5
_CLOCKS_APART, _CLOCKS_FAR_APART = 1.0, 10.0
_SHORT_ABSENCE = 600
_CROWDED = 0.8

_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
# Numbers of backends are shown to every role; what pg_stat_activity says of them is not.
_CONNECTIONS = """\
SELECT current_setting('max_connections')::int
    - (SELECT sum(setting::int) FROM pg_settings
        WHERE name IN ('superuser_reserved_connections', 'reserved_connections')),
    (SELECT sum(numbackends) FROM pg_stat_database),
    (SELECT min(own) FROM (
        SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user AND rolconnlimit >= 0
        UNION ALL
        SELECT datconnlimit FROM pg_database WHERE datname = current_database() AND datconnlimit >= 0
    ) AS limits (own))"""


async def _clocks(patient: Patient) -> Answer:
    """How far the clocks are apart, the time on the way taken out."""
    offsets: dict[str, float] = {"this machine": 0.0}
    reasons = []
    for name, clock in (("Redis", _redis_clock), ("PostgreSQL", _postgres_clock)):
        try:
            offsets[name] = await _offset(patient, clock)
        except CannotTellError as error:
            reasons.append(str(error))
    if len(offsets) == 1:
        raise CannotTellError("; ".join(reasons))
    spread = max(offsets.values()) - min(offsets.values())
    shown = [f"{name} {offset:+.3f} s" for name, offset in offsets.items() if name != "this machine"]
    found = "; ".join([f"against this machine: {', '.join(shown)}", *reasons])
    do = "synchronise the clocks (chrony, NTP): requests fall due by Redis' clock and are written by their writer's"
    if spread > _CLOCKS_FAR_APART:
        return problem(found, do)
    return advice(found, do) if spread > _CLOCKS_APART else ok(found)


async def _redis_clock(patient: Patient) -> float:
    seconds, micros = await patient.redis.time()
    return float(seconds) + float(micros) / 1e6


async def _postgres_clock(patient: Patient) -> float:
    [[seconds]] = await (await patient.postgres.execute(_CLOCK)).fetchall()
    return float(seconds)


async def _offset(patient: Patient, clock: Callable[[Patient], Awaitable[float]]) -> float:
    """Seconds by which a clock is ahead of ours, by the quickest of a few round trips."""
    measured = []
    for _ in range(_CLOCK_TRIES):
        began = now().timestamp()
        there = await clock(patient)
        ended = now().timestamp()
        measured.append((ended - began, there - (began + ended) / 2))
    return min(measured)[1]


async def _absences(patient: Patient) -> Answer:
    """How long each part may be away before a session expires, by the settings and the sweep's rules."""
    ttl, sweep = patient.settings.ttl_seconds, patient.settings.sweep_seconds
    # The sweep takes the TTL from a session that has less left than this; what it left alone has at least as much.
    held_below = min(ttl, max(3 * sweep, ttl / 3))
    away = max(0.0, held_below - sweep)
    found = (
        f"PostgreSQL may be away for as long as Redis has memory; all workers together for {spell(away)}, "
        f"{spell(ttl)} for calls that are still written to"
    )
    if away < _SHORT_ABSENCE:
        return advice(found, "raise SESSION_BRIDGE_TTL_SECONDS, and the TTL of whoever writes with plain EXPIRE")
    return ok(found)


async def _connections(patient: Patient) -> Answer:
    """Whether PostgreSQL has a connection for each that the workers may open."""
    settings = patient.settings
    try:
        workers = max(1, (await Overview(patient.redis, patient.keys).waiting()).workers)
    except CannotTellError:
        workers = 1
    wanted = workers * (settings.concurrency + 1)
    [[room, used, own_limit]] = await (await patient.postgres.execute(_CONNECTIONS)).fetchall()
    limit = room if own_limit is None else min(room, own_limit)
    found = f"{wanted} at most, for {workers} worker(s), of {limit} allowed; {used} of {room} are open now"
    do = "raise max_connections (or the limit of the role or database), or lower SESSION_BRIDGE_CONCURRENCY"
    if wanted > limit:
        return problem(found, do)
    return advice(found, do) if max(wanted / limit, used / room) > _CROWDED else ok(found)


async def _identity(patient: Patient) -> Answer:
    bound = await patient.redis.get(patient.keys.archive)
    async with patient.archive() as connection:
        [[identity]] = await fetch(connection, "archive_identity")
    if bound is None:
        return ok(f"{patient.keys.namespace}:* is bound to no archive yet; the first worker binds it")
    if bound.decode() != identity:
        return problem(
            f"{patient.keys.namespace}:* belongs to archive {bound.decode()}, and DATABASE_URL leads to {identity}",
            "correct one of the two addresses; if the archive was moved on purpose, `session-bridge adopt`",
        )
    return ok(f"{patient.keys.namespace}:* and this archive belong together")


async def _queue(patient: Patient) -> Answer:
    queue, sessions = patient.settings.queue_redis_url, addresses(patient.settings)[0]
    if queue is None or server_of(queue) == server_of(sessions):
        return advice(
            "arq's queue is on the Redis of the sessions",
            "under load, set SESSION_BRIDGE_QUEUE_REDIS_URL to another: a flood of jobs then takes no session's room",
        )
    return ok("arq's queue has a Redis of its own")


async def _outcome(patient: Patient) -> Answer:
    try:
        load_outcome(patient.settings.outcome)
    except SettingsError as error:
        return problem(str(error), "correct SESSION_BRIDGE_OUTCOME: workers do not start with it")
    return ok(patient.settings.outcome or "the default")


DEPLOYMENT_CHECKS = (
    Check("deployment.clocks", "clocks", _clocks),
    Check("deployment.absences", "outage budget", _absences),
    Check("deployment.connections", "connections to PostgreSQL", _connections),
    Check("deployment.archive", "archive of this namespace", _identity),
    Check("deployment.queue", "arq's queue", _queue),
    Check("deployment.outcome", "outcome function", _outcome),
)
"""In the order in which they are shown."""
