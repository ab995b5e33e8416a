"""The providers' own cases for signatures, and what becomes of an accepted one when a byte of it changes."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import plivo.utils  # type: ignore[import-untyped]
import plivo.utils.signature_v3  # type: ignore[import-untyped]
import pytest
import standardwebhooks.webhooks
from livekit.api import AccessToken

from session_bridge.errors import SettingsError, UnreadableCallbackError, UntrustedCallbackError
from session_bridge.webhooks.callback import Callback, Provider
from session_bridge.webhooks.elevenlabs import ElevenLabs
from session_bridge.webhooks.exotel import Exotel
from session_bridge.webhooks.livekit import LiveKit
from session_bridge.webhooks.plivo import Plivo
from session_bridge.webhooks.retell import Retell
from session_bridge.webhooks.standard import Standard
from session_bridge.webhooks.twilio import Twilio
from session_bridge.webhooks.vapi import Vapi

FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}
NOW = 1_700_000_000


def accepts(provider: Provider, callback: Callback) -> bool:
    try:
        provider.verify(callback)
        if callback.body:
            provider.read(callback)
    except (UntrustedCallbackError, UnreadableCallbackError):
        return False
    return True


def vectors(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text())["vectors"]
    assert found
    return found


@pytest.fixture
def standard_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the clock of the library for Standard Webhooks, which has no other door for the time."""

    def set_to(seconds: int) -> None:
        class At(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> At:
                return cls.fromtimestamp(seconds, tz)

        monkeypatch.setattr(standardwebhooks.webhooks, "datetime", At)

    return set_to


def clock_at(seconds: float) -> Callable[[], float]:
    return lambda: seconds


# -- one changed byte -------------------------------------------------------------------------------------------------


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]


def changed(callback: Callback, *headers: str, url: bool = False) -> Iterator[tuple[str, Callback]]:
    """The callback with one byte changed: each of its body, of these headers, and of the URL but for the port."""
    for place in range(len(callback.body)):
        yield f"body {place}", dataclasses.replace(callback, body=flipped(callback.body, place))
    for name in headers:
        value = callback.headers[name].encode()
        for place in range(len(value)):
            other = {**callback.headers, name: flipped(value, place).decode("latin-1")}
            yield f"{name} {place}", dataclasses.replace(callback, headers=other)
    if url:
        port = urlsplit(callback.url).port
        digits = callback.url.find(f":{port}") + 1 if port else -1
        for place in range(len(callback.url)):
            if not (port and digits <= place < digits + len(str(port))):
                yield f"url {place}", dataclasses.replace(callback, url=flipped(callback.url.encode(), place).decode())


def refuses_all_changes(provider: Provider, callback: Callback, *headers: str, url: bool = False) -> int:
    assert accepts(provider, callback)
    others = list(changed(callback, *headers, url=url))
    assert [place for place, other in others if accepts(provider, other)] == []
    return len(others)


# -- Twilio -----------------------------------------------------------------------------------------------------------


def twilio_callback(case: dict[str, Any]) -> Callback:
    signature = {"x-twilio-signature": case["signature"]}
    if "body" in case:
        return Callback("POST", case["request_url"], signature | JSON, case["body"].encode())
    return Callback(
        "POST",
        case["request_url"],
        signature | FORM,
        urlencode([(name, value) for name, value in case["params"] or []]).encode(),
    )


def test_twilios_cases(shared_vectors: Path) -> None:
    cases = vectors(shared_vectors, "twilio_request_signature")
    assert len(cases) == 16
    changes = 0
    for case in cases:
        provider, callback = Twilio(case["auth_token"]), twilio_callback(case)
        if case["name"] in ("unescaped quote, asked escaped", "escaped quote, asked unescaped"):
            continue
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"]:
            changes += refuses_all_changes(provider, callback, "x-twilio-signature", url=True)
    assert changes > 1000


def test_a_json_body_that_twilio_did_not_sign_is_refused(shared_vectors: Path) -> None:
    [case] = [case for case in vectors(shared_vectors, "twilio_request_signature") if "body" in case]
    from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

    plain = "https://mycompany.com/myapp.php?foo=1&bar=2"
    signature = RequestValidator(case["auth_token"]).compute_signature(plain, {})
    callback = Callback("POST", plain, {"x-twilio-signature": signature} | JSON, b'{"property": "another"}')
    assert not accepts(Twilio(case["auth_token"]), callback)
    # Nor does another kind of content take the digest's place.
    assert not accepts(Twilio(case["auth_token"]), dataclasses.replace(callback, headers={**callback.headers, **FORM}))
    assert accepts(Twilio(case["auth_token"]), Callback("GET", plain, {"x-twilio-signature": signature}))


def test_a_body_hidden_beside_the_digest_is_refused(shared_vectors: Path) -> None:
    [case] = [case for case in vectors(shared_vectors, "twilio_request_signature") if "body" in case]
    callback = twilio_callback(case)
    forged = dataclasses.replace(
        callback, body=b"CallSid=CA1&CallStatus=completed", headers={**callback.headers, **FORM}
    )
    assert not accepts(Twilio(case["auth_token"]), forged)


# -- LiveKit ----------------------------------------------------------------------------------------------------------


# The keys of the cases are short; a real one is not.
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_livekits_cases(shared_vectors: Path) -> None:
    cases = vectors(shared_vectors, "livekit_webhook")
    assert len(cases) == 7
    accepted = 0
    for case in cases:
        provider = LiveKit(case["api_key"], case["api_secret"])
        callback = Callback(
            "POST", "https://a.test/livekit", {"authorization": case["authorization"]}, case["body"].encode()
        )
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"]:
            accepted += 1
            refuses_all_changes(provider, callback, "authorization")
    assert accepted


@pytest.mark.parametrize(("seconds", "valid"), [(300, True), (-3600, False)])
def test_a_token_of_livekit_is_valid_for_its_time(seconds: int, valid: bool) -> None:
    body = b'{"event":"room_finished"}'
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    token = AccessToken("key", "a secret that is long enough for it").with_sha256(digest)
    token = token.with_ttl(dt.timedelta(seconds=seconds))
    callback = Callback("POST", "https://a.test/livekit", {"authorization": token.to_jwt()}, body)
    assert accepts(LiveKit("key", "a secret that is long enough for it"), callback) == valid
    assert not accepts(LiveKit("other", "a secret that is long enough for it"), callback)


# -- Plivo ------------------------------------------------------------------------------------------------------------


def test_plivos_cases_of_version_2(shared_vectors: Path) -> None:
    for case in vectors(shared_vectors, "plivo_signature_v2"):
        headers = {"x-plivo-signature-v2": case["signature"], "x-plivo-signature-v2-nonce": case["nonce"]}
        provider, callback = Plivo(case["auth_token"], "v2"), Callback("POST", case["url"], headers | FORM)
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"]:
            refuses_all_changes(provider, callback, "x-plivo-signature-v2", "x-plivo-signature-v2-nonce", url=True)
            # It says nothing of the body, and so it does not count unless it is asked for.
            assert not accepts(Plivo(case["auth_token"]), callback)


PLIVO_REQUESTS = [
    ("POST", "https://calls.test/plivo", {"CallUUID": "u-1", "CallStatus": "completed"}),
    ("POST", "https://calls.test/plivo?b=2&a=1", {"To": "+15550101", "From": "+15550100", "CallUUID": "u-1"}),
    ("POST", "https://calls.test/plivo?b=2&a=1", {}),
    ("POST", "https://calls.test:8443/plivo", {"Text": "ünï cödé & more=less", "Empty": ""}),
    ("GET", "https://calls.test/plivo?CallUUID=u-1&CallStatus=ringing", {}),
    ("GET", "https://calls.test/plivo", {}),
]


@pytest.mark.parametrize(("method", "url", "params"), PLIVO_REQUESTS)
def test_version_3_is_what_plivos_library_makes_of_it(method: str, url: str, params: dict[str, str]) -> None:
    v3 = plivo.utils.signature_v3
    base = v3.construct_get_url(url, {}) if method == "GET" else v3.construct_post_url(url, params)
    signature = v3.get_signature_v3("my_auth_token", base.decode(), "12345").decode()
    assert v3.validate_v3_signature(method, url, "12345", "my_auth_token", signature, dict(params))
    headers = {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": "12345"}
    callback = Callback(method, url, headers | FORM, urlencode(params).encode())
    provider = Plivo("my_auth_token")
    assert accepts(provider, callback)
    others = list(changed(callback, *headers))
    assert [place for place, other in others if accepts(provider, other)] == []
    both = {**headers, "x-plivo-signature-v3": f"AAAA,{signature}"}
    assert accepts(provider, dataclasses.replace(callback, headers=both | FORM))
    assert not accepts(provider, dataclasses.replace(callback, url=url.replace("calls", "balls")))


def test_plivo_posts_no_json() -> None:
    body = b'{"CallUUID": "u-1"}'
    signed = f"https://calls.test/plivo?.{body.decode()}.12345".encode()
    signature = base64.b64encode(hmac.new(b"t", signed, hashlib.sha256).digest()).decode()
    headers = {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": "12345"}
    assert not accepts(Plivo("t"), Callback("POST", "https://calls.test/plivo", headers | JSON, body))


# -- Retell, ElevenLabs, Standard Webhooks ----------------------------------------------------------------------------


def test_retells_cases(shared_vectors: Path) -> None:
    cases = vectors(shared_vectors, "retell_webhook_signature")
    assert len(cases) == 17
    for case in cases:
        now = case["now_ms"] / 1000
        provider = Retell(case["api_key"], clock=clock_at(now))
        callback = Callback(
            "POST", "https://a.test/retell", {"x-retell-signature": case["signature"]}, case["body"].encode()
        )
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"]:
            refuses_all_changes(provider, callback, "x-retell-signature")


def test_elevenlabs_cases(shared_vectors: Path) -> None:
    for case in vectors(shared_vectors, "elevenlabs_webhook_signature"):
        headers = {"elevenlabs-signature": case["header"]}
        callback = Callback("POST", "https://a.test/elevenlabs", headers, case["body"].encode())
        provider = ElevenLabs(case["secret"], clock=clock_at(case["now_s"]))
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"]:
            refuses_all_changes(provider, callback, "elevenlabs-signature")
            for seconds in (-1801, 1801):
                late = ElevenLabs(case["secret"], clock=clock_at(case["now_s"] + seconds))
                assert not accepts(late, callback)


def test_the_cases_of_standard_webhooks(shared_vectors: Path, standard_clock: Callable[[int], None]) -> None:
    cases = vectors(shared_vectors, "standard_webhooks")
    assert len(cases) == 10
    for case in cases:
        standard_clock(case["now_s"])
        provider = Standard(case["secret"])
        callback = Callback("POST", "https://a.test/standard", case["headers"], case["body"].encode())
        assert accepts(provider, callback) == case["valid"], case["name"]
        if case["valid"] and " " not in case["headers"]["webhook-signature"]:
            refuses_all_changes(provider, callback, *case["headers"])
            for seconds in (-301, 301):
                standard_clock(case["now_s"] + seconds)
                assert not accepts(provider, callback)


# -- Vapi and Exotel, which sign nothing ------------------------------------------------------------------------------


def test_vapis_secret_is_in_a_header_of_the_users_choice() -> None:
    callback = Callback("POST", "https://a.test/vapi", {"x-vapi-secret": "s3cret", "authorization": "Bearer t"})
    assert refuses_all_changes(Vapi("s3cret"), callback, "x-vapi-secret") == 6
    assert refuses_all_changes(Vapi("Bearer t", header="Authorization"), callback, "authorization")
    assert not accepts(Vapi("s3cret"), Callback("POST", "https://a.test/vapi"))


def test_exotels_secret_is_in_the_path_and_its_addresses_are_listed() -> None:
    provider = Exotel.of("s3cret", ["203.0.113.0/24", "2001:db8::7", "::ffff:192.0.2.1"])
    # A listener of both protocols writes an IPv4 peer in IPv6's way.
    for address in ("203.0.113.9", "2001:db8::7", "::ffff:203.0.113.9", "::ffff:192.0.2.1"):
        assert accepts(provider, Callback("POST", "", secret="s3cret", address=address))
    for address in ("203.0.114.9", "::ffff:203.0.114.9", "::203.0.113.9", "", "unix", "203.0.113.9.example"):
        assert not accepts(provider, Callback("POST", "", secret="s3cret", address=address))
    assert not accepts(provider, Callback("POST", "", secret="s3cres", address="203.0.113.9"))
    assert accepts(Exotel.of("s3cret"), Callback("POST", "", secret="s3cret"))
    with pytest.raises(SettingsError, match="no address"):
        Exotel.of("s3cret", ["exotel.example"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Twilio(""), lambda: LiveKit("key", ""), lambda: Plivo(""), lambda: Vapi(""), lambda: Retell(""),
        lambda: ElevenLabs(""), lambda: Standard("whsec_"), lambda: Standard("no base64 !"), lambda: Exotel.of(""),
    ],
)  # fmt: skip
def test_a_secret_that_everybody_knows_is_refused(make: Callable[[], Provider]) -> None:
    with pytest.raises(SettingsError):
        make()


def test_no_secret_is_shown_where_a_provider_is() -> None:
    for provider in (Twilio("s3cret"), LiveKit("key", "s3cret"), Plivo("s3cret"), Vapi("s3cret"), Exotel.of("s3cret")):
        assert "s3cret" not in repr(provider)
