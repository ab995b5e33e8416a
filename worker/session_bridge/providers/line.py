"""The way to a provider: HTTP that never raises, never waits for long, and tells the log nothing of a call.

Which errors mean what is decided here, once, for every provider: nothing but a JSON object with status 200, or with
404, reaches the module of the provider. All else is `unknown`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import cast

import httpx2
from pydantic import JsonValue

from session_bridge.errors import SettingsError
from session_bridge.providers.answer import Answer, Reply, Word

# A call's record has a few kilobytes, a list of rooms a few hundred for each thousand.
_LONGEST_REPLY = 8 * 1024 * 1024
_OUTAGE_SECONDS, _REFUSED_SECONDS, _TOO_MANY_SECONDS = 10.0, 60.0, 30.0
_LONGEST_PAUSE = 3600.0
_CONNECTIONS = 16
# Packed, a short reply could unpack to an endless one.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "call-session-bridge"}
# Where an HTTP client of Python looks, in capitals or not, for what leads it out of a closed network.
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class HttpLine:
    """A `Line` over HTTP. `seconds` is how long an exchange may take, from the connection to the last byte.

    Proxies and certificates are those of the environment; raises SettingsError if nobody can be asked by them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Of what goes wrong nothing is quoted that may hold a proxy's password.
        try:
            self._client = httpx2.AsyncClient(
                timeout=seconds, limits=httpx2.Limits(max_connections=_CONNECTIONS), headers=_HEADERS
            )
        except ImportError as error:
            raise SettingsError(
                f"providers are asked by a SOCKS proxy ({_set(_PROXIES)}), and a package for that is not installed: "
                "pip install socksio, or unset it"
            ) from error
        except OSError as error:
            raise SettingsError(
                f"providers cannot be asked: the certificates of {_set(_CERTIFICATES)} cannot be read "
                f"({error.strerror or type(error).__name__}): name a file that is there, or unset it"
            ) from error
        except (ValueError, httpx2.InvalidURL) as error:
            raise SettingsError(
                f"providers cannot be asked: {_set(_PROXIES)} is not the address of a proxy: write http://host:port, "
                "or unset it"
            ) from error

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def get(
        self, url: str, *, user: str, password: str, query: Mapping[str, str] | None = None
    ) -> Reply | Answer:
        """GET with HTTP basic authentication."""
        return await self._exchange("GET", url, auth=(user, password), query=query)

    async def post(self, url: str, *, token: str, body: Mapping[str, JsonValue]) -> Reply | Answer:
        """POST of a JSON object with a bearer token."""
        return await self._exchange("POST", url, token=token, body=body)

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        token: str = "",
        query: Mapping[str, str] | None = None,
        body: Mapping[str, JsonValue] | None = None,
    ) -> Reply | Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            # The client's own time-out is for each read: a server that sends a byte now and then would outlive it.
            async with (
                asyncio.timeout(self._seconds),
                self._client.stream(method, url, params=query, json=body, headers=headers, auth=auth) as response,
            ):
                if trouble := _trouble(response.status_code, response.headers.get("Retry-After", "")):
                    return trouble
                raw = bytearray()
                async for piece in response.aiter_raw():
                    raw += piece
                    if len(raw) > _LONGEST_REPLY:
                        return _unknown("it answered more than is understood")
                return _understood(response.status_code, bytes(raw))
        except (TimeoutError, httpx2.TimeoutException):
            return _unknown("it did not answer in time", _OUTAGE_SECONDS)
        except httpx2.HTTPError as error:
            # The type alone: an error's own words may quote an address.
            return _unknown(f"it cannot be reached ({type(error).__name__})", _OUTAGE_SECONDS)
        except (httpx2.InvalidURL, httpx2.StreamError, OSError, ValueError, RecursionError) as error:
            return _unknown(f"it cannot be asked ({type(error).__name__})", _OUTAGE_SECONDS)


def _set(names: Sequence[str]) -> str:
    """Those of these variables that are set."""
    return ", ".join(name for name in os.environ if name.upper() in names) or " or ".join(names)


def _unknown(why: str, pause_seconds: float = 0) -> Answer:
    return Answer(Word.UNKNOWN, why, pause_seconds=pause_seconds)


def _trouble(status: int, retry_after: str) -> Answer | None:
    """What a status other than 200 and 404 means."""
    if status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
        return None
    why = f"it answered {status}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Answer(Word.UNKNOWN, why, pause_seconds=_REFUSED_SECONDS, refused=True)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _unknown(why, _wait(retry_after, _TOO_MANY_SECONDS))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unknown(why, _wait(retry_after, _OUTAGE_SECONDS))
    return _unknown(why)


def _wait(retry_after: str, otherwise: float) -> float:
    """Seconds that a Retry-After asks for: a number or a date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return otherwise
    # A comparison with what is no number is false.
    return min(seconds, _LONGEST_PAUSE) if seconds > 0 else otherwise


def _understood(status: int, raw: bytes) -> Reply | Answer:
    body = json.loads(raw)
    if not isinstance(body, dict):
        return _unknown("it answered something else than an object")
    return Reply(status, cast("dict[str, JsonValue]", body))
