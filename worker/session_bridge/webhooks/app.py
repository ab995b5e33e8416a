"""The webhooks as one ASGI application: to mount in another, or to run by itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from session_bridge.contract.fields import DEFAULT_MAX_FIELD_BYTES
from session_bridge.contract.keys import Keys
from session_bridge.errors import (
    RedisUnavailableError,
    SettingsError,
    UnreadableCallbackError,
    UntrustedCallbackError,
)
from session_bridge.recorder import config
from session_bridge.webhooks.callback import Callback, Provider
from session_bridge.webhooks.delivery import Delivery
from session_bridge.webhooks.origin import Origin

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5
_BODY_SECONDS = 15.0
_REFUSED_LOG_SECONDS = 10.0
_RETRY = {"Retry-After": str(RETRY_SECONDS)}


def webhooks(
    *providers: Provider,
    redis: str | Redis | None = None,
    keys: Keys | None = None,
    ttl_seconds: int | None = None,
    public_url: str | None = None,
    trusted_proxies: Iterable[str] = (),
    max_bytes: int = DEFAULT_MAX_FIELD_BYTES,
) -> Starlette:
    """An application that hears these providers, each below a path of its name.

    Args:
        providers: `Twilio(…)`, `Plivo(…)`, …, one of each name.
        redis: a URL, or a client, which stays yours to close; `REDIS_URL` if left out.
        keys: key names; `SESSION_BRIDGE_KEY_PREFIX` and `SESSION_BRIDGE_NAMESPACE` if left out.
        ttl_seconds: how long a session lives after the last write; `SESSION_BRIDGE_TTL_SECONDS` or 3600.
        public_url: what stands before the path in the URL that providers call, as in `https://calls.example.com`, for
            some of them sign it; what the request and trusted proxies say if left out.
        trusted_proxies: addresses or networks of proxies whose `X-Forwarded-*` headers are believed.
        max_bytes: a larger body is answered 413.

    It answers 200 when Redis has acknowledged what a callback said, 400 to a body that cannot be read, 403 to a request
    that is not proven to be its provider's, and 503 with `Retry-After` while Redis is away.

    Raises:
        SettingsError: an address cannot be used, or there is no provider or two of one name.
    """
    names = [provider.name for provider in providers]
    if not names or len(set(names)) != len(names):
        raise SettingsError("webhooks need providers, one of each name: webhooks(Twilio(auth_token), …)")
    try:
        client = redis if isinstance(redis, Redis) else config.connect(config.url_or_default(redis))
        delivery = Delivery(client, config.keys_or_default(keys), config.ttl_or_default(ttl_seconds))
    except ValueError as error:
        raise SettingsError(f"the webhooks' Redis: {error}") from error
    origin = Origin.of(public_url, trusted_proxies)
    routes = [
        Route(one.path, _Endpoint(one, delivery, origin, max_bytes).answer, methods=list(one.methods), name=one.name)
        for one in providers
    ]
    routes += [Route("/live", _live, methods=["GET"]), Route("/ready", _ready_with(client), methods=["GET"])]
    return Starlette(routes=routes, lifespan=_closing(None if isinstance(redis, Redis) else client))


class _Endpoint:
    """One provider's requests."""

    def __init__(self, provider: Provider, delivery: Delivery, origin: Origin, max_bytes: int) -> None:
        self._provider = provider
        self._delivery = delivery
        self._origin = origin
        self._max_bytes = max_bytes
        self._refusals = _Refusals(provider.name)

    async def answer(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._body(request)
        except TimeoutError:
            return _say(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {_BODY_SECONDS:g} seconds")
        except ClientDisconnect:
            return _say(HTTPStatus.BAD_REQUEST, "the body did not come whole")
        if body is None:
            return _say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {self._max_bytes:,} bytes")
        callback = Callback(
            method="GET" if request.method == "HEAD" else request.method,
            url=self._origin.url(request.scope),
            headers=dict(reversed(request.headers.items())),
            body=body,
            secret=str(request.path_params.get("secret", "")),
            address=self._origin.address(request.scope),
        )
        return await self._hear(callback)

    async def _hear(self, callback: Callback) -> Response:
        name = self._provider.name
        try:
            self._provider.verify(callback)
            news = self._provider.understand(self._provider.read(callback))
            await self._delivery.deliver(news, name)
        except UntrustedCallbackError as error:
            self._refusals.note(str(error))
            return _say(HTTPStatus.FORBIDDEN, str(error))
        except UnreadableCallbackError as error:
            log.warning("webhook.unreadable", provider=name, bytes=len(callback.body), reason=str(error))
            return _say(HTTPStatus.BAD_REQUEST, str(error))
        except RedisUnavailableError as error:
            log.warning("webhook.waiting", provider=name, reason=str(error), cause=type(error.__cause__).__name__)
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, str(error), _RETRY)
        except Exception as error:  # noqa: BLE001  # a provider's new idea must not end in a traceback that quotes it
            log.error("webhook.failed", provider=name, bytes=len(callback.body), error=type(error).__name__)  # noqa: TRY400  # a traceback may quote the call
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, "a bug of the bridge; please report what its log says", _RETRY)
        return Response(status_code=HTTPStatus.OK)

    async def _body(self, request: Request) -> bytes | None:
        """The whole body, or None if it is too large; no more of it than that is ever held."""
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._max_bytes:
            return None
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > self._max_bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)


class _Refusals:
    """Log lines of refused requests: the first at once, and then how many there were, so that a flood fills no disk."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._count = 0
        self._said_at = float("-inf")

    def note(self, reason: str) -> None:
        self._count += 1
        if time.monotonic() - self._said_at >= _REFUSED_LOG_SECONDS:
            log.warning("webhook.refused", provider=self._provider, reason=reason, requests=self._count)
            self._count, self._said_at = 0, time.monotonic()


def _say(status: HTTPStatus, why: str, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps({"error": why})
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def _live(_request: Request) -> Response:
    return Response("alive\n", media_type="text/plain")


def _ready_with(redis: Redis) -> Callable[[Request], Awaitable[Response]]:
    async def ready(_request: Request) -> Response:
        try:
            await redis.execute_command("PING")
        except (RedisError, OSError) as error:
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis does not answer: {type(error).__name__}", _RETRY)
        return Response("ready\n", media_type="text/plain")

    return ready


def _closing(redis: Redis | None) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Closes a client of our own when the application ends; an application that is mounted is not told."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        if redis is not None:
            await redis.aclose()

    return lifespan


def paths(providers: Sequence[Provider]) -> dict[str, str]:
    """Where each provider is heard, by its name."""
    return {provider.name: provider.path for provider in providers}
