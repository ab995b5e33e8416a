"""The address of a Redis: one server, or sentinels that know which server it is at the moment."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedSSLConnection

_SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_PORT = 26379
_HOST = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")
# Where the files of a TLS client are, in redis-py's own words; the same for sentinels and master.
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_FORM = "write redis+sentinel://[user:password@]host:port,host:port/service[/db][?sentinel_password=…]"


def is_sentinel(url: str) -> bool:
    """Whether `url` names sentinels rather than the server itself."""
    return urlsplit(url).scheme in _SCHEMES


def client_of(url: str, **options: Any) -> Redis:  # noqa: ANN401  # what redis-py takes
    """A client of the Redis at `url`; nothing is sent yet. Raises ValueError if that is no address.

    Behind sentinels it asks them for the master whenever it connects, and so finds the new one after a failover.
    """
    return Redis.from_pool(pool_of(url, ConnectionPool, **options))


def check_address(url: str) -> None:
    """Raise ValueError if `url` is not the address of a Redis."""
    if is_sentinel(url):
        _parts(url)
    else:
        parse_url(url)


class _Pool(SentinelConnectionPool):
    """The connections to the master; those to the sentinels are closed with them."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's own
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def pool_of(url: str, plain: type[ConnectionPool], **options: Any) -> ConnectionPool:  # noqa: ANN401  # as above
    """The connections of such a client; `plain` is their class where no sentinels are asked."""
    if urlsplit(url).scheme == "unix":
        # A file has no TCP, and redis-py takes nothing for it that is TCP's.
        options.pop("socket_keepalive", None)
    if not is_sentinel(url):
        return plain.from_url(url, **options)
    hosts, service, of_sentinels, of_master = _parts(url)
    shared = {name: value for name, value in options.items() if name.startswith("socket_")}
    manager = Sentinel(hosts, sentinel_kwargs={**shared, **of_sentinels})
    return _Pool(service, manager, **options, **of_master)  # type: ignore[no-untyped-call]  # redis-py's own


def _parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Where the sentinels are, the service's name, and the options for sentinels and for the master."""
    split = urlsplit(url)
    credentials, _, where = split.netloc.rpartition("@")
    hosts = []
    for one in where.split(","):
        match = _HOST.fullmatch(one)
        if match is None:
            raise ValueError(f"sentinels are host:port, set apart by commas; {_FORM}")
        hosts.append((match[1].strip("[]"), int(match[2] or _SENTINEL_PORT)))
    service, _, db = unquote(split.path).strip("/").partition("/")
    if not service or not (db or "0").isdecimal():
        raise ValueError(f"the name of the service is missing, or its database is no number; {_FORM}")
    user, _, password = credentials.partition(":")
    asked = dict(parse_qsl(split.query))
    of_sentinels: dict[str, Any] = {name: asked.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    of_master: dict[str, Any] = {
        "db": int(db or 0),
        "username": unquote(user) or None,
        "password": unquote(password) or None,
    }
    if _SCHEMES[split.scheme]:
        files = {name: asked.pop(name) for name in _TLS_FILES if name in asked}
        of_sentinels |= {"ssl": True, **files}
        of_master |= {"connection_class": SentinelManagedSSLConnection, **files}
    if asked:
        raise ValueError(f"nobody knows the option {min(asked)}; {_FORM}")
    return hosts, service, of_sentinels, of_master
