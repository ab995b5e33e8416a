"""`session-bridge webhooks`: hear what providers call back."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import click
import structlog

from session_bridge import log
from session_bridge.errors import MissingExtraError, SettingsError
from session_bridge.settings import RedisSettings, Settings, load_settings

if TYPE_CHECKING:
    from starlette.applications import Starlette

_logger = structlog.get_logger(__name__)
_SHUTDOWN_SECONDS = 10


@click.command("webhooks")
@click.option("--host", help="Address to listen on; SESSION_BRIDGE_WEBHOOKS_HOST or 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port; SESSION_BRIDGE_WEBHOOKS_PORT or 8090.")
def webhooks_command(host: str | None, port: int | None) -> None:
    """Hear the webhooks of every provider whose secret is set, until SIGTERM.

    Needs REDIS_URL and no database. Each provider is heard at a path of its name, and what it says is written to the
    live session before it is answered.
    """
    settings = load_settings(RedisSettings)
    log.configure(settings.log_format, settings.log_level, key=settings.namespace)
    try:
        import uvicorn  # noqa: PLC0415  # an extra of its own
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed: pip install 'call-session-bridge[webhooks]'"
        ) from error
    app, where = application(settings)
    host = settings.webhooks_host if host is None else host
    listener = listen(host, settings.webhooks_port if port is None else port)
    _logger.info("webhooks.listening", host=host, port=listener.getsockname()[1], paths=where)
    uvicorn.Server(
        uvicorn.Config(
            app,
            # A path may hold a secret, and who is believed behind a proxy is for our own settings to say.
            access_log=False,
            proxy_headers=False,
            server_header=False,
            log_config=None,
            log_level="warning",
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
    ).run(sockets=[listener])


def application(settings: Settings) -> tuple[Starlette, list[str]]:
    """The application of these settings, and the paths of its providers."""
    try:
        from session_bridge.webhooks.app import paths, webhooks  # noqa: PLC0415  # an extra of its own
        from session_bridge.webhooks.configured import providers_of  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} is not installed: pip install 'call-session-bridge[webhooks]'"
        ) from error
    providers = providers_of(settings)
    app = webhooks(
        *providers,
        redis=settings.redis_url,
        keys=settings.keys,
        ttl_seconds=settings.ttl_seconds,
        public_url=settings.webhooks_public_url,
        trusted_proxies=settings.webhooks_trusted_proxies,
        max_bytes=settings.webhooks_max_bytes,
    )
    return app, list(paths(providers).values())


def listen(host: str, port: int) -> socket.socket:
    """A socket on which nobody else listens; raises SettingsError if it cannot be had."""
    # Named by its protocol, for else asyncio leaves out TCP_NODELAY, and an answer of two packets waits for 40 ms.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"nobody can listen on {host}, port {port} ({error.strerror}): choose others with --host and --port"
        ) from error
    return listener
