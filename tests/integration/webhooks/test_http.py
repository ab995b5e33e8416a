"""The webhooks in a FastAPI application under uvicorn: what they answer, and what they write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import redis

from session_bridge.contract.keys import Keys

ENDED = {"CallSid": "CA1", "CallStatus": "completed", "SequenceNumber": "3", "From": "+15550100"}


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


def test_an_end_is_written_held_and_asked_for_before_it_is_answered(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    answer = serve(redis_url).call("twilio", ENDED | {"CallDuration": "60"})
    assert (answer.status_code, answer.content) == (200, b"")
    written = client.hgetall("session:CA1")
    expected = {"provider": "twilio", "status": "completed", "status_by": "twilio", "status_sequence": "3"}
    expected |= {"from_number": "+15550100", "finalized_by": "webhook", "finalize_reason": "twilio status callback"}
    assert {name: written[name] for name in expected} == expected
    assert client.ttl("session:CA1") == -1
    assert client.zscore("session-bridge:ready", "CA1") is not None
    assert client.zrange("session-bridge:opened", 0, -1) == ["CA1"]


def test_what_is_no_end_renews_the_ttl_and_asks_for_nothing(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    served = serve(redis_url, ttl_seconds=600)
    assert served.call("twilio", {"CallSid": "CA1", "CallStatus": "ringing"}).status_code == 200
    assert 500 < client.ttl("session:CA1") <= 600
    assert client.zscore("session-bridge:ready", "CA1") is None
    # A session that waits is held, and stays so.
    served.call("twilio", ENDED)
    assert served.call("twilio", {"CallSid": "CA1", "CallStatus": "ringing", "SequenceNumber": "1"}).status_code == 200
    assert client.ttl("session:CA1") == -1
    assert client.hget("session:CA1", "status") == "completed"


@pytest.mark.parametrize(
    ("written", "said", "holds"),
    [
        ({"status": "in-progress"}, {"CallStatus": "completed"}, "completed"),
        ({"status": "Completed"}, {"CallStatus": "ringing"}, "Completed"),
        ({"status": "completed"}, {"CallStatus": "failed"}, "failed"),
        ({"status": "completed", "status_by": "exotel"}, {"CallStatus": "failed"}, "failed"),
        ({"status": "busy", "status_by": "twilio", "status_sequence": "4"}, {"CallStatus": "failed"}, "busy"),
        ({"status": "busy", "status_by": "twilio", "status_sequence": "2"}, {"CallStatus": "failed"}, "failed"),
        ({"status": "abandoned", "status_by": "inferred"}, {"CallStatus": "in-progress"}, "in-progress"),
        (
            {"status": "in-progress", "status_by": "twilio", "status_sequence": "9"},
            {"CallStatus": "ringing"},
            "in-progress",
        ),
    ],
)
def test_the_end_the_provider_and_the_sequence_decide(
    serve: Callable[..., Any], redis_url: str, client: Any, *, written: dict[str, str], said: dict[str, str], holds: str
) -> None:
    client.hset("session:CA1", mapping=written)
    served = serve(redis_url)
    assert served.call("twilio", {"CallSid": "CA1", "SequenceNumber": "3"} | said).status_code == 200
    assert client.hget("session:CA1", "status") == holds


def test_an_older_callback_fills_gaps_and_takes_nothing_back(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    client.hset("session:CA1", mapping={"last_activity_at": "2026-11-20T10:00:00Z", "to_number": "+15550199"})
    old = {"CallSid": "CA1", "CallStatus": "ringing", "To": "+15550101", "From": "+15550100"}
    served = serve(redis_url)
    served.call("twilio", old | {"Timestamp": "Fri, 20 Nov 2026 09:59:00 +0000"})
    assert client.hget("session:CA1", "to_number") == "+15550199"
    assert client.hget("session:CA1", "from_number") == "+15550100"
    assert client.hget("session:CA1", "last_activity_at") == "2026-11-20T10:00:00Z"
    served.call("twilio", old | {"Timestamp": "Fri, 20 Nov 2026 10:01:00 +0000"})
    assert client.hget("session:CA1", "to_number") == "+15550101"
    assert client.hget("session:CA1", "last_activity_at") == "2026-11-20T10:01:00+00:00"


def test_keys_of_ones_own(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    serve(redis_url, keys=Keys("calls:", "staging")).call("twilio", ENDED)
    assert sorted(client.keys()) == ["calls:CA1", "staging:opened", "staging:ready"]


def test_a_script_that_the_server_has_forgotten_is_sent_again(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    served = serve(redis_url)
    client.script_flush()
    assert served.call("twilio", ENDED).status_code == 200
    assert client.exists("session:CA1")


# -- what is refused --------------------------------------------------------------------------------------------------

BODIES: dict[str, dict[str, Any]] = {
    "twilio": ENDED,
    "exotel": {"CallSid": "secret-call", "Status": "completed", "EventType": "terminal"},
    "livekit": {"event": "room_finished", "room": {"sid": "RM_secret"}},
    "plivo": {"CallUUID": "secret-call", "CallStatus": "completed", "Event": "Hangup"},
    "vapi": {"message": {"type": "end-of-call-report", "call": {"id": "secret-call"}, "endedReason": "hangup"}},
    "retell": {"event": "call_ended", "call": {"call_id": "secret-call"}},
    "elevenlabs": {"type": "post_call_transcription", "data": {"conversation_id": "secret-call"}},
    "standard": {"type": "call.ended", "data": {"call_sid": "secret-call"}},
}


def forged(served: Any, provider: str, body: dict[str, Any], number: int) -> httpx2.Request:
    """A request like this provider's by somebody who does not know its secret."""
    genuine = served.request(provider, body)
    headers = {name: value for name, value in genuine.headers.items() if name in ("content-type", "content-length")}
    if provider == "exotel":
        return httpx2.Request("POST", f"{served.base}/exotel/guess-{number}", headers=headers, content=genuine.content)
    for name, value in genuine.headers.items():
        if "signature" in name or name in ("authorization", "x-vapi-secret", "webhook-id", "webhook-timestamp"):
            headers[name] = (value, value[::-1], value[:-1], "", f"v1,{value}")[number % 5] if number % 7 else "\x7f"
    if headers.items() >= dict(genuine.headers).items():
        headers = {}
    other = genuine.content.replace(b"secret", b"forged").replace(b"CA1", b"CA2")
    headers["content-length"] = str(len(other))
    return httpx2.Request("POST", genuine.url, headers=headers, content=other)


def test_a_flood_of_forged_requests_writes_nothing_and_logs_no_body(
    serve: Callable[..., Any], redis_url: str, client: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve(redis_url)
    commands = client.info("commandstats")
    answers = set()
    for number in range(100):
        for provider, body in BODIES.items():
            if provider == "vapi" and number % 5 == 0 and number % 7:
                continue  # whoever has its secret is Vapi
            answers.add((provider, served.http.send(forged(served, provider, body, number)).status_code))
    assert answers == {(provider, 403) for provider in BODIES}
    assert client.keys() == []
    written = {
        name for name in client.info("commandstats").keys() - commands.keys() if "eval" in name or "hset" in name
    }
    assert written == set()
    out, err = capfd.readouterr()
    told = out + err
    assert "webhook.refused" in told
    assert not any(word in told for word in ("secret-call", "forged-call", "RM_secret", "CA2", "5550100", "guess-"))
    # One line for many requests.
    assert told.count("webhook.refused") < 100


def test_a_genuine_request_of_each_provider_is_heard(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    served = serve(redis_url)
    assert {provider: served.call(provider, body).status_code for provider, body in BODIES.items()} == dict.fromkeys(
        BODIES, 200
    )
    assert {"CA1", "secret-call", "RM_secret"} == set(client.zrange("session-bridge:ready", 0, -1))


def test_a_form_in_parts_is_heard(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    served = serve(redis_url)
    form = {name: (None, value) for name, value in {"CallSid": "e1", "Status": "completed"}.items()}
    url = served.request("exotel", {"CallSid": "e1"}).url
    assert served.http.post(url, files=form).status_code == 200
    assert client.hget("session:e1", "status") == "completed"
    assert client.zscore("session-bridge:ready", "e1") is not None


@pytest.mark.parametrize("provider", ["livekit", "retell", "elevenlabs", "standard", "vapi"])
def test_a_body_that_cannot_be_read_is_refused_with_a_reason(
    serve: Callable[..., Any], redis_url: str, client: Any, provider: str
) -> None:
    served = serve(redis_url)
    for body in ({}, {"event": "call_ended"}, {"message": {"type": "status-update"}}, {"type": "x", "data": {}}):
        answer = served.call(provider, body)
        if (provider, "event" in body) != ("livekit", True):
            assert answer.status_code == 400
            assert len(answer.json()["error"]) > 20
    assert client.keys() == []


def test_a_call_that_cannot_be_named_is_refused(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    served = serve(redis_url)
    for body in ({"CallStatus": "completed"}, ENDED | {"CallSid": "x" * 256}, ENDED | {"CallSid": "CA\x001"}):
        answer = served.call("twilio", body)
        assert (answer.status_code, "names no call" in answer.json()["error"]) == (400, True)
    assert client.keys() == []


def test_a_body_past_the_limit_is_refused_before_it_is_read(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    served = serve(redis_url, max_bytes=2000)
    assert served.call("retell", BODIES["retell"] | {"padding": "x" * 3000}).status_code == 413

    def chunks() -> Any:
        for _ in range(50):
            yield b"x" * 100

    assert served.http.post(f"{served.base}/retell", content=chunks()).status_code == 413
    assert served.call("retell", BODIES["retell"]).status_code == 200
    assert client.zrange("session-bridge:ready", 0, -1) == ["secret-call"]


def test_a_get_is_heard_where_the_provider_may_send_one(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

    served = serve(redis_url)
    url = f"{served.base}/twilio?CallSid=CA7&CallStatus=completed"
    signature = RequestValidator(served.token).compute_signature(url, {})
    assert served.http.get(url, headers={"X-Twilio-Signature": signature}).status_code == 200
    assert client.hget("session:CA7", "status") == "completed"
    assert served.http.get(url.replace("CA7", "CA8"), headers={"X-Twilio-Signature": signature}).status_code == 403
    assert served.http.get(f"{served.base}/retell").status_code == 405
    assert served.http.get(f"{served.base}/nobody").status_code == 404


# -- behind a proxy ---------------------------------------------------------------------------------------------------


def test_behind_a_proxy_the_public_url_is_set_or_told_by_one_that_is_trusted(
    serve: Callable[..., Any], redis_url: str, client: Any
) -> None:
    set_, trusting, plain = (
        serve(redis_url, public_url="https://calls.example.test/"),
        # Uvicorn's own belief would put the caller in the proxy's place before the webhooks see who it is.
        serve(redis_url, trusted_proxies=["127.0.0.0/8"], proxy_headers=False),
        serve(redis_url, trusted_proxies=["10.0.0.1"], proxy_headers=False),
    )
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "calls.example.test", "X-Forwarded-For": "192.0.2.1"}
    answers = []
    for served in (set_, trusting, plain):
        there, served.base = served.base, "https://calls.example.test/webhooks"
        request = served.request("twilio", ENDED)
        headers = dict(request.headers) | forwarded
        headers["host"] = there.removeprefix("http://").partition("/")[0]
        answers.append(served.http.post(f"{there}/twilio", headers=headers, content=request.content).status_code)
    assert answers == [200, 200, 403]


# -- Redis is away ----------------------------------------------------------------------------------------------------


def test_while_redis_is_away_the_provider_is_told_when_to_ask_again(
    serve: Callable[..., Any], redis_url: str, client: Any, proxy_to: Callable[[str], Any]
) -> None:
    proxy, through = proxy_to(redis_url)
    served = serve(through)
    assert served.call("twilio", ENDED).status_code == 200
    proxy.cut()
    for provider, body in BODIES.items():
        answer = served.call(provider, body)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), provider
    ready = served.http.get(f"{served.base}/ready")
    assert (ready.status_code, served.http.get(f"{served.base}/live").status_code) == (503, 200)
    proxy.mend()
    assert served.call("exotel", BODIES["exotel"]).status_code == 200
    assert served.http.get(f"{served.base}/ready").status_code == 200
    assert client.zscore("session-bridge:ready", "secret-call") is not None


def test_a_connection_that_broke_while_nobody_used_it_costs_no_answer(
    serve: Callable[..., Any], redis_url: str, proxy_to: Callable[[str], Any]
) -> None:
    proxy, through = proxy_to(redis_url)
    served = serve(through)
    assert served.call("twilio", ENDED).status_code == 200
    proxy.reset()
    assert served.call("twilio", ENDED).status_code == 200


def test_what_redis_refuses_is_not_acknowledged(serve: Callable[..., Any], redis_url: str, client: Any) -> None:
    served = serve(redis_url)
    client.config_set("maxmemory", "1")
    try:
        assert served.call("twilio", ENDED).status_code == 503
    finally:
        client.config_set("maxmemory", "0")
    assert client.exists("session:CA1") == 0
    assert served.call("twilio", ENDED).status_code == 200
