"""Which errors of Redis tell of its state, and so lose nothing, and which of what was written."""

from __future__ import annotations

import pytest
from redis import exceptions

from session_bridge.recorder.batch import is_away

IN_A_SCRIPT = (
    "Error running script (call to f_13ed44b54b390301815369a72882f94f6c6ab40d): @user_script:25: @user_script: 25: "
)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("Connection closed by server."),
        exceptions.ReadOnlyError("You can't write against a read only replica."),
        exceptions.ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
        exceptions.ResponseError(
            "OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:1."
        ),
        # As Redis 6.2 says it of a script.
        exceptions.ResponseError(f"{IN_A_SCRIPT}-OOM command not allowed when used memory > 'maxmemory'."),
        exceptions.ResponseError(f"{IN_A_SCRIPT}-READONLY You can't write against a read only replica."),
    ],
    ids=lambda error: str(error)[-40:],
)
def test_the_servers_own_state_is_waited_for(error: Exception) -> None:
    assert is_away(error)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        f"{IN_A_SCRIPT}-WRONGTYPE Operation against a key holding the wrong kind of value",
        f"{IN_A_SCRIPT}Wrong number of args calling Redis command From Lua script",
        "hash value is not an integer: OOM",
    ],
)
def test_what_was_written_is_not_tried_again(said: str) -> None:
    assert not is_away(exceptions.ResponseError(said))
