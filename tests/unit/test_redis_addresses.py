"""What an address of sentinels says of the connections to them and to their master."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from session_bridge.recorder.address import check_address, client_of


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
