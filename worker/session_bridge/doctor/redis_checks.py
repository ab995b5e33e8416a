"""Whether Redis keeps what it is given."""

from __future__ import annotations

import ssl
from typing import cast

from redis.asyncio.connection import ConnectionPool, SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import RedisError, ResponseError

from session_bridge.contract.ids import now
from session_bridge.contract.times import parse_time
from session_bridge.doctor.checks import (
    Answer,
    CannotTellError,
    Check,
    Patient,
    advice,
    answering,
    is_loopback,
    ok,
    problem,
    spell,
)
from session_bridge.errors import BridgeError
from session_bridge.live.failover import recall_loss
from session_bridge.live.sessions import redis_errors

_FULL, _NEARLY_FULL = 0.95, 0.80
_LAG_SECONDS = 10
_TEN_MEGABYTES = 10_000_000
_REMEMBERED = ("run_id", "master_replid", "evicted_keys", "expired_keys")


async def recall(patient: Patient) -> dict[str, str]:
    """What the last examination remembered; nothing if there was none, or it cannot be read."""
    try:
        kept = await patient.redis.execute_command("HGETALL", patient.keys.doctor)
    except RedisError:
        return {}
    facts = {name.decode(): value.decode() for name, value in cast("dict[bytes, bytes]", kept).items()}
    return facts if facts.keys() >= {"at", *_REMEMBERED} else {}


async def _answers(patient: Patient) -> Answer:
    return await answering(patient.redis_or_absent, lambda: patient.redis.execute_command("PING"), "Redis")


async def _version(patient: Patient) -> Answer:
    kind, name = ("Valkey", "valkey_version") if "valkey_version" in patient.info else ("Redis", "redis_version")
    version = f"{kind} {patient.info.get(name, 'of unknown version')}"
    try:
        # What a server calls itself is not always what it is; this command came with 6.2.
        await patient.redis.execute_command("ZMSCORE", patient.keys.ready, "doctor")
    except ResponseError as error:
        if "unknown command" in str(error).lower():
            return problem(f"{version} lacks commands of Redis 6.2", "upgrade to Redis 6.2 or newer, or to Valkey")
        raise
    return ok(version)


async def _commands(patient: Patient) -> Answer:
    needed: tuple[tuple[str | int, ...], ...] = (
        ("EVAL", "return 1", 0),
        ("MEMORY USAGE", patient.keys.doctor),
        ("SCAN", 0, "COUNT", 1, "TYPE", "hash"),
        ("HLEN", patient.keys.session("doctor")),
        ("ZCARD", patient.keys.ready),
    )
    refused = {}
    for command in needed:
        try:
            await patient.redis.execute_command(*command)
        except ResponseError as error:
            refused[str(command[0])] = str(error)
    if refused:
        names, reason = ", ".join(refused), next(iter(refused.values()))
        return problem(f"Redis refuses {names}: {reason}", "allow them to this user; a drain needs them")
    try:
        await patient.redis.execute_command("PUBLISH", patient.keys.wake, "")
    except ResponseError as error:
        return advice(
            f"Redis refuses PUBLISH: {error}",
            f"allow this user &{patient.keys.wake}: until then workers only see by looking what there is to do",
        )
    return ok("every command that a drain needs is allowed")


async def _single(patient: Patient) -> Answer:
    if patient.counts("cluster_enabled"):
        return problem(
            "this is a Redis Cluster", "use a single Redis, or one behind sentinels: workers refuse this one"
        )
    return ok("no cluster")


async def _role(patient: Patient) -> Answer:
    role = patient.says("role")
    if role != "master":
        return problem(f"this server is a {role}: it takes no writes", "point REDIS_URL at the master")
    replicas = [value for name, value in patient.info.items() if name.startswith("slave") and isinstance(value, dict)]
    if not replicas:
        return ok("master, without replicas")
    offset = patient.counts("master_repl_offset")
    behind = max(offset - int(replica.get("offset", 0)) for replica in replicas)
    lag = max(int(replica.get("lag", 0)) for replica in replicas)
    down = [replica for replica in replicas if replica.get("state") != "online"]
    found = f"master, {len(replicas)} replicas, the last of them {behind} bytes and {lag} s behind"
    if down or lag > _LAG_SECONDS:
        return advice(f"{found}, {len(down)} not online", "look at the replicas: a failover now would lose writes")
    return ok(found)


async def _policy(patient: Patient) -> Answer:
    policy = patient.says("maxmemory_policy")
    if policy == "noeviction":
        return ok("noeviction")
    do = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration"
    if patient.counts("maxmemory"):
        return problem(f"{policy}: when memory is full, live sessions are thrown away", do)
    return advice(f"{policy}, without effect only because maxmemory is not set", do)


async def _memory(patient: Patient) -> Answer:
    used, limit = patient.counts("used_memory"), patient.counts("maxmemory")
    of_machine = not limit
    limit = limit or int(cast("int", patient.info.get("total_system_memory", 0)))
    if not limit:
        return ok(f"{_megabytes(used)} used, and no limit is set")
    found = f"{_megabytes(used)} used of {_megabytes(limit)}{' that the machine has' if of_machine else ''}"
    do = "raise maxmemory (or the machine's memory), or find what fills it: at the limit writes are refused"
    if used > _FULL * limit:
        return problem(found, do)
    return advice(found, do) if used > _NEARLY_FULL * limit else ok(found)


async def _append_only(patient: Patient) -> Answer:
    if not patient.counts("aof_enabled"):
        return problem(
            "AOF is off: a crash loses everything since the last snapshot",
            "CONFIG SET appendonly yes, and the same in its configuration",
        )
    return ok("AOF is on")


async def _appendfsync(patient: Patient) -> Answer:
    if not patient.counts("aof_enabled"):
        raise CannotTellError("AOF is off")
    policy = (await patient.redis.config_get("appendfsync"))["appendfsync"]
    if policy == "no":
        return problem("appendfsync no: a crash may lose half a minute", "CONFIG SET appendfsync everysec (or always)")
    return ok(f"appendfsync {policy}" + (": a crash of the machine loses a second" if policy == "everysec" else ""))


async def _on_disk(patient: Patient) -> Answer:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failed = [name for name in names if patient.says(name) != "ok"]
    if failed:
        return problem(f"{', '.join(failed)}: not ok", "look at Redis' log and its disk: soon it will refuse writes")
    return ok("the last writes to disk succeeded")


async def _evictions(patient: Patient) -> Answer:
    evicted, expired = patient.counts("evicted_keys"), patient.counts("expired_keys")
    since = "since the server started"
    if patient.before.get("run_id") == patient.says("run_id"):
        evicted -= int(patient.before["evicted_keys"])
        expired -= int(patient.before["expired_keys"])
        since = f"since the last look, {_ago(patient)}"
    found = f"{evicted} keys evicted and {expired} expired {since}"
    if evicted > 0:
        return problem(found, "set maxmemory-policy noeviction and give it memory; the sweep shows such calls as lost")
    return ok(found)


async def _restart(patient: Patient) -> Answer:
    uptime = f"up for {spell(patient.counts('uptime_in_seconds'))}"
    if not patient.before:
        return ok(f"{uptime}; the first look, with nothing to compare it with")
    if patient.before["run_id"] == patient.says("run_id"):
        if patient.before["master_replid"] == patient.says("master_replid"):
            return ok(f"{uptime}, the same server as {_ago(patient)}")
        what = "was a replica in between: a failover there and back"
    elif patient.info.get("master_replid2") == patient.before["master_replid"]:
        what = "is the replica that took over in a failover"
    else:
        what = "was restarted, or is another one"
    found = f"the server {what} since the last look, {_ago(patient)} ({uptime})"
    if not patient.counts("aof_enabled"):
        return problem(found, "AOF is off, so what was not in a snapshot is gone: turn it on; see the lost calls below")
    return advice(
        found, "its last moments before that may be missing: recorders write theirs again, plain writers do not"
    )


async def _loss(patient: Patient) -> Answer:
    loss = await recall_loss(patient.redis, patient.keys)
    if loss is None:
        return ok("no worker has seen a failover")
    found = (
        f"writes from {loss.since:%Y-%m-%d %H:%M:%S} to {loss.until:%H:%M:%S} UTC ({loss.seconds:g} s) may be missing "
        f"since a failover, at least {loss.bytes} bytes of them"
    )
    do = f"recorders wrote theirs again; ask plain writers for theirs, then DEL {patient.keys.failover}"
    return advice(found, do)


async def _encrypted(patient: Patient) -> Answer:
    pool = patient.redis.connection_pool
    if is_loopback(await _host(pool)):
        return ok("on this machine")
    connection = pool.connection_class(**pool.connection_kwargs)
    if not isinstance(connection, SSLConnection):
        return advice("the way to Redis is not encrypted", "use rediss://, or a network that nobody else is on")
    options = "&".join(
        option
        for option, missing in (
            ("ssl_cert_reqs=required", connection.cert_reqs == ssl.CERT_NONE),
            ("ssl_check_hostname=true", not connection.check_hostname),
        )
        if missing
    )
    if options:
        return advice("encrypted, but whoever stands between can pose as Redis", f"add ?{options} to REDIS_URL")
    return ok("encrypted, and the server's certificate is checked")


async def _host(pool: ConnectionPool) -> str:
    """Where the server is that holds the sessions, or the file of its socket."""
    if isinstance(pool, SentinelConnectionPool):
        host, _ = await pool.get_master_address()
    else:
        host = pool.connection_kwargs.get("path") or pool.connection_kwargs.get("host", "localhost")
    return str(host)


async def _writes(patient: Patient) -> Answer:
    """Whether it takes writes; what is written is what the next examination compares with."""
    facts = {name: str(patient.info[name]) for name in _REMEMBERED if name in patient.info}
    facts["at"] = now().isoformat()
    pairs = [part for pair in facts.items() for part in pair]
    try:
        async with redis_errors():
            await patient.redis.execute_command("HSET", patient.keys.doctor, *pairs)
    except (BridgeError, ResponseError) as error:
        return problem(str(error), "make Redis writable: until then no session is recorded, claimed or released")
    return ok("it takes writes")


def _ago(patient: Patient) -> str:
    return f"{spell((now() - parse_time(patient.before['at'])).total_seconds())} ago"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= _TEN_MEGABYTES else f"{count / 1e6:.1f} MB"


REDIS_CHECKS = (
    Check("redis.answers", "Redis answers", _answers),
    Check("redis.version", "Redis version", _version),
    Check("redis.commands", "Redis commands", _commands),
    Check("redis.single", "no Redis Cluster", _single),
    Check("redis.role", "replication", _role),
    Check("redis.policy", "maxmemory-policy", _policy),
    Check("redis.memory", "memory of Redis", _memory),
    Check("redis.aof", "AOF", _append_only),
    Check("redis.appendfsync", "appendfsync", _appendfsync),
    Check("redis.disk", "Redis' disk", _on_disk),
    Check("redis.evictions", "evictions", _evictions),
    Check("redis.restart", "restarts and failovers", _restart),
    Check("redis.loss", "lost in a failover", _loss),
    Check("redis.tls", "TLS to Redis", _encrypted),
    Check("redis.writes", "Redis takes writes", _writes),
)
"""In the order in which they are shown; the last one remembers what the others compared."""
