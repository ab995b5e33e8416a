"""The webhooks in a FastAPI application under uvicorn, and the providers that call them over HTTP."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx2
import plivo.utils.signature_v3  # type: ignore[import-untyped]
import pytest
import redis.asyncio
import uvicorn
from fastapi import FastAPI
from livekit.api import AccessToken
from retell.lib.webhook_auth import symmetric
from standardwebhooks import Webhook
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from session_bridge.cli.webhooks import listen
from session_bridge.webhooks.app import webhooks
from session_bridge.webhooks.callback import Provider
from session_bridge.webhooks.elevenlabs import ElevenLabs
from session_bridge.webhooks.exotel import Exotel
from session_bridge.webhooks.livekit import LiveKit
from session_bridge.webhooks.plivo import Plivo
from session_bridge.webhooks.retell import Retell
from session_bridge.webhooks.standard import Standard
from session_bridge.webhooks.twilio import Twilio
from session_bridge.webhooks.vapi import Vapi

TOKEN = "an auth token that is long enough for everybody"
STANDARD_SECRET = f"whsec_{base64.b64encode(TOKEN.encode()).decode()}"
_FORM, _JSON = {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "application/json"}


def all_providers() -> list[Provider]:
    return [
        Twilio(TOKEN),
        Exotel.of(TOKEN.replace(" ", "-")),
        LiveKit("key", TOKEN),
        Plivo(TOKEN),
        Vapi(TOKEN),
        Retell(TOKEN),
        ElevenLabs(TOKEN),
        Standard(STANDARD_SECRET),
    ]


class Callers:
    """The providers, as they call the webhooks at `base`: each request is signed by the vendor's own code."""

    token = TOKEN

    def __init__(self, base: str) -> None:
        self.base = base

    def request(self, provider: str, body: dict[str, Any]) -> httpx2.Request:
        """A request of this provider, signed."""
        path, headers, content = getattr(self, f"_{provider}")(body)
        return httpx2.Request("POST", f"{self.base}{path}", headers=headers, content=content)

    def _twilio(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        signature = RequestValidator(TOKEN).compute_signature(f"{self.base}/twilio", body)
        return "/twilio", _FORM | {"X-Twilio-Signature": signature}, urlencode(body).encode()

    def _exotel(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        path = f"/exotel/{TOKEN.replace(' ', '-')}"
        if "Legs" in body:
            return path, _JSON, json.dumps(body).encode()
        return path, _FORM, urlencode(body, errors="replace").encode()

    def _livekit(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        content = json.dumps(body).encode()
        digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
        token = AccessToken("key", TOKEN).with_sha256(digest).to_jwt()
        return "/livekit", {"Content-Type": "application/webhook+json", "Authorization": token}, content

    def _plivo(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        v3 = plivo.utils.signature_v3
        signed = v3.construct_post_url(f"{self.base}/plivo", body).decode()
        signature = v3.get_signature_v3(TOKEN, signed, "12345").decode()
        headers = {"X-Plivo-Signature-V3": signature, "X-Plivo-Signature-V3-Nonce": "12345"}
        return "/plivo", _FORM | headers, urlencode(body).encode()

    def _vapi(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        return "/vapi", _JSON | {"X-Vapi-Secret": TOKEN}, json.dumps(body).encode()

    def _retell(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        content = json.dumps(body)
        return "/retell", _JSON | {"X-Retell-Signature": symmetric["sign"](content, TOKEN)}, content.encode()

    def _elevenlabs(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        # Its library verifies and does not sign.
        content, now = json.dumps(body).encode(), str(int(time.time()))
        digest = hmac.new(TOKEN.encode(), now.encode() + b"." + content, hashlib.sha256).hexdigest()
        return "/elevenlabs", _JSON | {"ElevenLabs-Signature": f"t={now},v0={digest}"}, content

    def _standard(self, body: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
        content, now = json.dumps(body), datetime.now(UTC)
        signature = Webhook(STANDARD_SECRET).sign("msg_1", now, content)
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature,
        }
        return "/standard", _JSON | headers, content.encode()


class Served(Callers):
    """The webhooks mounted in a FastAPI application under uvicorn, and those who call them over HTTP."""

    def __init__(self, server: uvicorn.Server, port: int) -> None:
        super().__init__(f"http://127.0.0.1:{port}/webhooks")
        self.server = server
        self.http = httpx2.Client(timeout=30)

    def call(self, provider: str, body: dict[str, Any]) -> httpx2.Response:
        """What is answered to this provider."""
        return self.http.send(self.request(provider, body))


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves the webhooks of all providers with these options."""
    with contextlib.ExitStack() as stack:

        def begin(redis_url: str, *, proxy_headers: bool = True, **options: Any) -> Served:
            client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(redis_url, socket_timeout=5)

            @contextlib.asynccontextmanager
            async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
                async with client:
                    yield

            app = FastAPI(lifespan=lifespan)
            app.mount("/webhooks", webhooks(*all_providers(), redis=client, **options))
            listener = stack.enter_context(listen("127.0.0.1", 0))
            config = uvicorn.Config(app, log_config=None, access_log=False, proxy_headers=proxy_headers)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            served = Served(server, listener.getsockname()[1])

            def end() -> None:
                served.http.close()
                server.should_exit = True
                thread.join()

            stack.callback(end)
            return served

        yield begin
