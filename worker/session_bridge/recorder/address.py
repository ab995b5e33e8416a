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
# What the address of one server may say, besides where it is. Any other option would be a mistake in its name, or mean
# nothing on this way to the server.
_OPTIONS = frozenset(("db", "username", "password", "client_name", "health_check_interval", "retry_on_timeout")).union(
    ("socket_timeout", "socket_connect_timeout")
)
_OF_TCP = _OPTIONS | {"socket_keepalive"}
_OF_TLS = _OF_TCP.union(("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_data", "ssl_ciphers"), _TLS_FILES)
_OF_SCHEMES = {"unix": _OPTIONS, "redis": _OF_TCP, "rediss": _OF_TLS}
# What those who share the address want of their own clients: here each reads in its own way, over as many connections
# as it takes.
_FOR_OTHERS = frozenset(("decode_responses", "encoding", "encoding_errors", "protocol", "max_connections"))
_PLAIN_FORM = "write redis://[user:password@]host[:port][/db], rediss://…, unix:///path[?db=…] or redis+sentinel://…"
_FORM = "write redis+sentinel://[user:password@]host:port,host:port/service[/db][?sentinel_password=…]"
ESCAPES = "in user and password, @ : / ? # % are %40 %3A %2F %3F %23 %25"
"""What to do about a password by which an address is none."""


def is_sentinel(url: str) -> bool:
    """Whether `url` names sentinels rather than the server itself."""
    return _scheme(url) in _SCHEMES


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
        _options(url)


class _Pool(SentinelConnectionPool):
    """The connections to the master; those to the sentinels are closed with them."""

    async def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002  # redis-py's own
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def pool_of(url: str, plain: type[ConnectionPool], **options: Any) -> ConnectionPool:  # noqa: ANN401  # as above
    """The connections of such a client; `plain` is their class where no sentinels are asked."""
    if _scheme(url) == "unix":
        # A file has no TCP, and redis-py takes nothing for it that is TCP's.
        options.pop("socket_keepalive", None)
    if not is_sentinel(url):
        return plain(**options | _options(url))
    hosts, service, of_sentinels, of_master = _parts(url)
    shared = {name: value for name, value in options.items() if name.startswith("socket_")}
    manager = Sentinel(hosts, sentinel_kwargs={**shared, **of_sentinels})
    return _Pool(service, manager, **options, **of_master)  # type: ignore[no-untyped-call]  # redis-py's own


def server_of(url: str) -> tuple[object, ...]:
    """What two addresses of one server have in common. Raises ValueError if `url` is no address."""
    if is_sentinel(url):
        hosts, service, _, _ = _parts(url)
        return service, *sorted(hosts)
    options = _options(url)
    return (options["path"],) if "path" in options else (options.get("host", "localhost"), options.get("port", 6379))


def _options(url: str) -> dict[str, Any]:
    """What the address of one server says, by redis-py's names."""
    try:
        options = dict(parse_url(url))
    except ValueError:
        # Its words quote the address, and with it perhaps the password.
        raise ValueError(f"{_PLAIN_FORM}; {ESCAPES}") from None
    scheme, parts = _scheme(url), urlsplit(url)
    known = _OF_SCHEMES[scheme]
    if unknown := {name for name, _ in parse_qsl(parts.query)} - known - _FOR_OTHERS:
        name = min(unknown)
        tls = "; with TLS it is rediss://" if name in _OF_TLS and scheme == "redis" else ""
        raise ValueError(f"nobody knows the option {name} in {scheme}://, there are {', '.join(sorted(known))}{tls}")
    # redis-py would take any other word for database 0.
    if scheme != "unix" and not (unquote(parts.path).strip("/") or "0").isdecimal():
        raise ValueError(f"the database is no number: {_PLAIN_FORM}; {ESCAPES}")
    return {name: value for name, value in options.items() if name not in _FOR_OTHERS}


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _parts(url: str) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Where the sentinels are, the service's name, and the options for sentinels and for the master."""
    # Python's own urlsplit refuses several hosts if one is an IPv6 address, from 3.14 on.
    address, _, query = url.partition("://")[2].partition("?")
    netloc, _, path = address.partition("/")
    credentials, _, where = netloc.rpartition("@")
    hosts = []
    for one in where.split(","):
        match = _HOST.fullmatch(one)
        if match is None:
            raise ValueError(f"sentinels are host:port, set apart by commas; {_FORM}; {ESCAPES}")
        hosts.append((match[1].strip("[]"), int(match[2] or _SENTINEL_PORT)))
    service, _, db = unquote(path).strip("/").partition("/")
    if not service or not (db or "0").isdecimal():
        raise ValueError(f"the name of the service is missing, or its database is no number; {_FORM}")
    user, _, password = credentials.partition(":")
    asked = dict(parse_qsl(query))
    of_sentinels: dict[str, Any] = {name: asked.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    of_master: dict[str, Any] = {
        "db": int(db or 0),
        "username": unquote(user) or None,
        "password": unquote(password) or None,
    }
    if _SCHEMES[_scheme(url)]:
        files = {name: asked.pop(name) for name in _TLS_FILES if name in asked}
        of_sentinels |= {"ssl": True, **files}
        of_master |= {"connection_class": SentinelManagedSSLConnection, **files}
    if asked:
        raise ValueError(f"nobody knows the option {min(asked)}; {_FORM}")
    return hosts, service, of_sentinels, of_master
