"""What an address of sentinels says of the connections to them and to their master."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from session_bridge.recorder.address import check_address, client_of, server_of
from session_bridge.settings import without_password


def pools(url: str) -> tuple[Any, Any]:
    """Those of the master and of the first sentinel."""
    master: Any = client_of(url).connection_pool
    return master, master.sentinel_manager.sentinels[0].connection_pool


def test_tls_is_for_sentinels_and_master_alike() -> None:
    files = "ssl_ca_certs=/ca.pem&ssl_certfile=/mine.pem&ssl_keyfile=/key.pem"
    master, sentinel = pools(f"rediss+sentinel://ann:pw@one,[::1]:7000/calls/3?sentinel_password=other&{files}")
    assert master.connection_class is SentinelManagedSSLConnection
    assert sentinel.connection_class is SSLConnection
    given = {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/mine.pem", "ssl_keyfile": "/key.pem"}
    of_master = {**given, "username": "ann", "password": "pw", "db": 3}
    assert of_master.items() <= master.connection_kwargs.items()
    of_sentinel = {**given, "host": "one", "port": 26379, "username": None, "password": "other"}
    assert of_sentinel.items() <= sentinel.connection_kwargs.items()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://one/calls?ssl_ca_certs=/ca.pem", "nobody knows the option ssl_ca_certs"),
        ("rediss+sentinel://one/calls?ssl_cacerts=/ca.pem", "nobody knows the option ssl_cacerts"),
        ("redis+sentinel://one", "the name of the service is missing"),
        ("redis+sentinel://one/calls/x", "its database is no number"),
        ("redis+sentinel://one:port/calls", "host:port, set apart by commas"),
        ("redis://one?ssl_cert_reqs=none", "nobody knows the option ssl_cert_reqs in redis://.*rediss://"),
        ("unix:///run/redis.sock?socket_keepalive=true", "nobody knows the option socket_keepalive in unix://"),
        ("unix:///run/redis.sock?ssl_ca_certs=/ca.pem", "nobody knows the option ssl_ca_certs in unix://"),
        ("redis://one?path=/run/redis.sock", "nobody knows the option path in redis://"),
        ("redis://one?connection_class=Mine", "nobody knows the option connection_class"),
        ("redis://one/prod", "the database is no number"),
        ("rediss://one/1/2", "the database is no number"),
        ("redis://user:6379/prod@one", "%2F"),
        ("redis://one?db=prod", "write redis://"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://one/",
        "redis://one/?socket_keepalive=true&socket_timeout=5",
        "rediss://one/3?ssl_cert_reqs=none&ssl_check_hostname=false&socket_keepalive=true",
        "rediss://one?ssl_ca_certs=/ca.pem&db=3",
        "unix:///run/redis.sock?db=3&client_name=ann&socket_timeout=5&retry_on_timeout=true",
    ],
)
def test_what_an_address_may_say_makes_a_connection(url: str) -> None:
    check_address(url)
    connection = client_of(url, socket_keepalive=True).connection_pool.make_connection()
    assert connection.db == (3 if "3" in url else 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://localhost", "redis://ann:pw@localhost:6379/3", True),
        ("redis://localhost", "redis://localhost:6380", False),
        ("unix:///run/a.sock?db=1", "unix:///run/a.sock", True),
        ("unix:///run/a.sock", "unix:///run/b.sock", False),
        ("redis+sentinel://one,[::1]:7000/calls", "redis+sentinel://ann:pw@[::1]:7000,one:26379/calls/2", True),
        ("redis+sentinel://one,[::1]:7000/calls", "redis+sentinel://one,[::1]:7000/queue", False),
    ],
)
def test_whether_two_addresses_are_of_one_server(one: str, other: str, same: bool) -> None:
    assert (server_of(one) == server_of(other)) is same


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://ann@[::1]:6379/0", "redis://ann@[::1]:6379/0"),
        ("redis://:SECRET@localhost", "redis://:***@localhost"),
        ("rediss://ann:SECRET@SECRET@localhost/0", "rediss://ann:***@localhost/0"),
        (
            "redis+sentinel://ann:SECRET@one,[::1]:7000/calls?sentinel_password=SECRET",
            "redis+sentinel://ann:***@one,[::1]:7000/calls?sentinel_password=***",
        ),
        (
            "postgresql://ann:SEC#RET@[::1]:5432,[::2]/calls?password=SECRET&user=ann",
            "postgresql://ann:***@[::1]:5432,[::2]/calls?password=***&user=ann",
        ),
        ("host=db password=SECRET user=ann", "host=db password=*** user=ann"),
        (r"password = 'it\'s SECRET' host=db", "password = *** host=db"),
    ],
)
def test_what_is_shown_of_an_address_has_no_password(address: str, shown: str) -> None:
    assert without_password(address) == shown
