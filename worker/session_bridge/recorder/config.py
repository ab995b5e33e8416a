"""Where a recorder's Redis, key names and times come from when the caller leaves them out: the environment."""

from __future__ import annotations

import math
import os
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from session_bridge.contract.fields import DEFAULT_GRACE_SECONDS, DEFAULT_TTL_SECONDS
from session_bridge.contract.keys import DEFAULT_NAMESPACE, DEFAULT_PREFIX, Keys
from session_bridge.recorder.address import client_of
from session_bridge.recorder.spool import default_directory

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


def keys_or_default(keys: Keys | None) -> Keys:
    """`keys`, or those that `SESSION_BRIDGE_KEY_PREFIX` and `SESSION_BRIDGE_NAMESPACE` name."""
    if keys is not None:
        return keys
    return Keys(
        prefix=os.environ.get("SESSION_BRIDGE_KEY_PREFIX") or DEFAULT_PREFIX,
        namespace=os.environ.get("SESSION_BRIDGE_NAMESPACE") or DEFAULT_NAMESPACE,
    )


def ttl_or_default(seconds: float | None) -> int:
    """`seconds`, or `SESSION_BRIDGE_TTL_SECONDS`, or an hour; raises ValueError if that is no positive whole number."""
    if seconds is None:
        seconds = _number("SESSION_BRIDGE_TTL_SECONDS", DEFAULT_TTL_SECONDS)
    if not math.isfinite(seconds) or seconds != int(seconds):
        raise ValueError(f"a TTL is a whole number of seconds, not {seconds}")
    if seconds < 1:
        raise ValueError(f"a TTL of {seconds} seconds would delete the call at once; give at least 1")
    return int(seconds)


def grace_or_default(seconds: float | None) -> float:
    """`seconds`, or `SESSION_BRIDGE_GRACE_SECONDS`, or 15; raises ValueError if that is negative or has no end."""
    if seconds is None:
        seconds = _number("SESSION_BRIDGE_GRACE_SECONDS", DEFAULT_GRACE_SECONDS)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a grace is 0 seconds or more, and finite, not {seconds}")
    return seconds


def url_or_default(url: str | None) -> str:
    """`url`, or `REDIS_URL`; raises ValueError if there is neither."""
    url = url or os.environ.get("REDIS_URL")
    if not url:
        raise ValueError("no Redis to record in: pass redis=, a URL or a client, or set REDIS_URL")
    return url


def directory_or_default(directory: str | Path | None) -> Path:
    """`directory`, or `SESSION_BRIDGE_SPOOL_DIR`, or one below the user's state."""
    chosen = directory or os.environ.get("SESSION_BRIDGE_SPOOL_DIR")
    return Path(chosen) if chosen else default_directory()


def connect(url: str) -> Redis:
    """A client of our own; it does not retry by itself, because the flusher does."""
    return client_of(
        url,
        socket_connect_timeout=_CONNECT_SECONDS,
        socket_timeout=_ANSWER_SECONDS,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )


def address_of(client: Redis) -> str:
    """Which database a client talks to, without its secrets."""
    pool = client.connection_pool
    settings: dict[str, object] = pool.connection_kwargs
    if isinstance(pool, SentinelConnectionPool):
        # Many deployments call their service the same: only with its sentinels the name says which one it is.
        where = ",".join((pool.service_name, *sorted(map(_host_of, pool.sentinel_manager.sentinels))))
    else:
        where = str(settings.get("path") or _host_of(client))
    return f"{where}/{settings.get('db') or 0}"


def _host_of(client: Redis) -> str:
    settings: dict[str, object] = client.connection_pool.connection_kwargs
    return f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is not a number: {text!r}") from None
