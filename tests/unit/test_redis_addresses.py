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
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_address(url)


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
