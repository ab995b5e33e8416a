"""The Redis server itself: connecting to it, and what it must be."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from session_bridge.contract.keys import Keys
from session_bridge.errors import RedisUnavailableError, SettingsError, UnsupportedServerError, WrongArchiveError
from session_bridge.live.sessions import first_line, redis_errors
from session_bridge.recorder.address import client_of

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 15.0


def connect(url: str) -> Redis:
    """A client of the Redis at `url`; nothing is sent yet. Raises SettingsError if that is no address."""
    try:
        return client_of(
            url,
            socket_connect_timeout=_CONNECT_SECONDS,
            socket_timeout=_ANSWER_SECONDS,
            socket_keepalive=True,
            health_check_interval=15,
            client_name="session-bridge",
        )
    except ValueError as error:
        raise SettingsError(f"REDIS_URL is not an address of Redis: {error}") from error


async def require_usable(redis: Redis, where: str) -> None:
    """Raise if the Redis at `where` (an address without its password) cannot be reached or cannot serve the bridge."""
    try:
        async with redis_errors():
            info = cast("dict[str, object]", await redis.info("cluster"))
    except ResponseError as error:
        raise UnsupportedServerError(
            f"Redis at {where} refused us: {first_line(error)}; check user, password and ACL in its address"
        ) from error
    except RedisUnavailableError as error:
        if isinstance(error.__cause__, AuthenticationError):
            raise UnsupportedServerError(
                f"Redis at {where} refused us: {first_line(error.__cause__)}; put user and password in its address"
            ) from error
        why = first_line(error.__cause__ or error)
        if "CERTIFICATE_VERIFY_FAILED" in why:
            raise UnsupportedServerError(
                f"Redis at {where} shows a certificate that nobody here vouches for ({why}); name the file of its "
                "authority in the address: ?ssl_ca_certs=/path/to/ca.pem"
            ) from error
        raise RedisUnavailableError(
            f"Redis at {where} does not answer ({why}): start it or correct its address"
        ) from error
    except RedisError as error:
        raise UnsupportedServerError(f"Redis at {where} cannot be used: {first_line(error)}") from error
    if info.get("cluster_enabled"):
        raise UnsupportedServerError(
            f"Redis at {where} is a cluster: a session and the ready set would lie on different nodes, and a release "
            "could not look at both at once; use a single Redis or one behind sentinels"
        )


async def claim_archive(redis: Redis, keys: Keys, archive_id: str, *, adopt: bool = False) -> None:
    """Bind this namespace to an archive; raises WrongArchiveError if it is bound to another and not to `adopt`."""
    async with redis_errors():
        if adopt:
            await redis.set(keys.archive, archive_id)
            return
        await redis.set(keys.archive, archive_id, nx=True)
        bound = cast("bytes", await redis.get(keys.archive)).decode()
    if bound != archive_id:
        raise WrongArchiveError(
            f"the sessions under {keys.namespace}:* belong to archive {bound}, and DATABASE_URL leads to {archive_id}: "
            "correct one of the two addresses or set SESSION_BRIDGE_NAMESPACE; if the archive was moved on purpose, "
            "run `session-bridge adopt`"
        )
