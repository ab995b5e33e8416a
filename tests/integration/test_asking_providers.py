"""Silent calls and their providers, played by a real HTTP server: what each answer leads to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

ACCOUNT, TOKEN = "AC" + "0" * 32, "opensesame"
SID, OTHER = "CA" + "1" * 32, "CA" + "2" * 32
EXOTEL_SID = "b6cfaf5f5cef3ca0fc937749ef96d245"
ROOM_SID = "RM_dcEM8bJvkjQe"
ROOMS = "/twirp/livekit.RoomService/ListRooms"

CREDENTIALS = {
    "twilio_account_sid": ACCOUNT,
    "twilio_auth_token": TOKEN,
    "exotel_account_sid": "acme1",
    "exotel_api_key": "exokey",
    "exotel_api_token": TOKEN,
    "livekit_api_key": "livekey",
    "livekit_api_secret": TOKEN,
}
# Ten minutes of silence are too much, and the calls here are silent for longer when they are first met.
SILENCE = {"idle_seconds": 60, "abandon_seconds": 600, "answer_seconds": 2}


def path_of(sid: str, account: str = ACCOUNT) -> str:
    return f"/2010-04-01/Accounts/{account}/Calls/{sid}.json"


def twilio(status: str, sid: str = SID, **more: Any) -> dict[str, Any]:
    """A call as Twilio's API shows it."""
    shown = {
        "sid": sid, "account_sid": ACCOUNT, "status": status, "direction": "inbound", "from": "+15550100",
        "to": "+15550199", "start_time": "Sat, 21 Nov 2026 10:00:00 +0000", "end_time": None, "duration": None,
        "parent_call_sid": None, "price": None,
    }  # fmt: skip
    return shown | more


ENDED = twilio("completed", end_time="Sat, 21 Nov 2026 10:07:30 +0000", duration="450")


@pytest.fixture
def open_with(bridge_with: Any, played: Any) -> Callable[..., Any]:
    """Opens a bridge that asks the played provider."""

    async def begin(**settings: Any) -> Any:
        urls = {f"{name}_url": played.url for name in ("twilio", "exotel", "livekit")}
        return await bridge_with(**{**CREDENTIALS, **urls, **SILENCE, **settings})

    return begin


async def silent(bridge: Any, sid: str = SID, **more: Any) -> None:
    """A call that gave its last sign of life long ago."""
    fields = {
        "provider": "twilio",
        "status": "in-progress",
        "started_at": "2026-11-20T10:00:00Z",
        "last_activity_at": "2026-11-20T10:05:00Z",
        "message:1": {"role": "user", "content": "hello", "timestamp": "2026-11-20T10:04:00Z"},
    }
    await bridge.write(sid, {**fields, **more})
    await bridge.redis.expire(bridge.key(sid), 3600)


async def sweep(bridge: Any, **given: Any) -> Any:
    return await bridge.bridge.sweeper.sweep(**{"limit": 1000, **given})


async def asked_for(bridge: Any, sid: str = SID) -> bool:
    return await bridge.redis.zscore(bridge.bridge.keys.ready, sid) is not None


async def known(bridge: Any, sid: str = SID) -> dict[str, int]:
    """What is remembered of asking about a call."""
    found = await bridge.redis.hgetall(bridge.bridge.keys.asked(sid))
    return {name.decode(): int(value) for name, value in found.items()}


async def may_be_asked_again(bridge: Any, *sids: str) -> None:
    """As if the time until the next question had passed."""
    for sid in sids or (SID,):
        await bridge.redis.hset(bridge.bridge.keys.asked(sid), "next_ms", 0)
    await bridge.redis.delete(*[bridge.bridge.keys.paused(name) for name in ("twilio", "exotel", "livekit")])


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def checkpoints(bridge: Any) -> None:
    """Make the checkpoints that are asked for."""
    while await bridge.redis.zcard(bridge.bridge.keys.checkpoints):
        await bridge.bridge.loop.drain_once()


async def assert_lives_on(bridge: Any, sid: str = SID) -> None:
    """Nobody asked for its end, nothing of it is gone, it does not expire, and it is written down as a living call."""
    assert not await asked_for(bridge, sid)
    assert await bridge.redis.pttl(bridge.key(sid)) == -1
    await checkpoints(bridge)
    call = await bridge.call(sid)
    assert (call["status"], call["ended_at"], call["end_reason"]) == ("in_progress", None, None)
    assert await bridge.rows("SELECT state FROM call_sids WHERE call_sid = %s", sid) == [{"state": "checkpointed"}]


# -- the three answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "ringing", "in-progress"])
async def test_a_call_that_lives_is_checkpointed_and_its_clock_starts_anew(
    open_with: Any, played: Any, status: str
) -> None:
    bridge = await open_with()
    await silent(bridge)
    played.answers[path_of(SID)] = (200, {}, twilio(status))
    assert (await sweep(bridge)).asked == {"live": 1}
    await assert_lives_on(bridge)
    await sweep(bridge)
    assert len(played.asked) == 1
    waits = (await known(bridge))["next_ms"] - time.time() * 1000
    assert 500_000 < waits <= 601_000
    # Once so much silence has passed again, it is asked about again, and only the answer decides.
    await may_be_asked_again(bridge)
    played.answers[path_of(SID)] = (200, {}, ENDED)
    assert (await sweep(bridge)).asked == {"ended": 1}
    assert await asked_for(bridge)


async def test_a_call_that_ended_is_drained_with_its_providers_word(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge, to_number="+15550777", status_sequence="2")
    played.answers[path_of(SID)] = (200, {}, ENDED | {"status": "no-answer"})
    report = await sweep(bridge)
    assert (report.asked, report.rescued) == ({"ended": 1}, 1)
    assert await asked_for(bridge)
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["status_by"]) == ("no_answer", "twilio")
    assert call["ended_at"].isoformat() == "2026-11-21T10:07:30+00:00"
    assert (call["from_number"], call["direction"]) == ("+15550100", "inbound")
    # What the session said of itself stays.
    assert call["to_number"] == "+15550777"
    assert call["started_at"].isoformat() == "2026-11-20T10:00:00+00:00"
    assert call["extra"]["provider_duration_seconds"] == "450"
    assert call["finalized_by"] == "sweep"
    assert call["finalize_reason"] == "its provider says it ended"
    assert not call["end_reason"]
    # Nothing of the question is left behind.
    assert await bridge.is_gone(SID)
    assert await bridge.redis.keys("session-bridge:asked:*") == []


@pytest.mark.parametrize(
    ("said", "status"),
    [("completed", "completed"), ("busy", "busy"), ("failed", "failed"), ("canceled", "canceled")],
)
async def test_every_word_for_an_end(open_with: Any, played: Any, said: str, status: str) -> None:
    bridge = await open_with()
    await silent(bridge)
    played.answers[path_of(SID)] = (200, {}, twilio(said, end_time="tomorrow, perhaps"))
    await sweep(bridge)
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["status_by"]) == (status, "twilio")
    # Without a time that can be read, it ended when it was last active.
    assert call["ended_at"].isoformat() == "2026-11-20T10:05:00+00:00"


@pytest.mark.parametrize("by", ["the asking", "a callback"])
async def test_a_writers_word_does_not_replace_its_providers(open_with: Any, played: Any, by: str) -> None:
    bridge = await open_with()
    await silent(bridge)
    if by == "the asking":
        played.answers[path_of(SID)] = (200, {}, twilio("busy"))
        await sweep(bridge)
        await bridge.drain()
    else:
        await bridge.ask(SID, status="completed")
        await bridge.drain()
        assert (await bridge.call(SID))["status"] == "completed"
        await bridge.ask(SID, status="busy", status_by="twilio")
        await bridge.drain()
    assert (await bridge.call(SID))["status"] == "busy"
    # The session manager comes late, and knows less.
    await bridge.ask(SID, status="completed", last_activity_at=str(time.time()))
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["status_by"], call["generation"]) == ("busy", "twilio", 1)


def redirect(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", path_of(OTHER))
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(json.dumps(ENDED).encode()[:100])
    handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: no single wait is long, and it never ends."""
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        for _ in range(64):
            handler.wfile.write(b" " * (1 << 20))


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\x15\x03\x01 what is this\r\n\r\n")
    handler.close_connection = True


TROUBLES = {
    "401": (401, {}, {"code": 20003, "message": "Authenticate", "status": 401}),
    "403": (403, {}, {"code": 20003}),
    "400": (400, {}, ENDED),
    "404 of Twilio": (404, {}, {"code": 20404, "message": "not found", "status": 404}),
    "404 of a gateway": (404, {}, "<html>nothing here</html>"),
    "404 with a call": (404, {}, ENDED),
    "410": (410, {}, ENDED),
    "429": (429, {"Retry-After": "2"}, {"code": 20429}),
    "429 with a date": (429, {"Retry-After": "Sat, 21 Nov 2099 10:00:00 GMT"}, ""),
    "429 with nonsense": (429, {"Retry-After": "soon"}, ""),
    "500": (500, {}, ENDED),
    "503": (503, {"Retry-After": "nan"}, "<html>"),
    "201": (201, {}, ENDED),
    "redirect": redirect,
    "nothing": (200, {}, ""),
    "no JSON": (200, {}, "completed"),
    "a list": (200, {}, [ENDED]),
    "null": (200, {}, "null"),
    "nested": (200, {}, "[" * 100_000),
    "not UTF-8": (200, {}, b'{"sid": "\xff\xfe"}'),
    "another call": (200, {}, ENDED | {"sid": OTHER}),
    "no SID": (200, {}, {"status": "completed"}),
    "a new word": (200, {}, twilio("finished")),
    "no word": (200, {}, twilio("")),
    "a number for a word": (200, {}, ENDED | {"status": 7}),
    "cut short": cut_short,
    "endless": endless,
    "no HTTP": no_http,
    "drip": drip,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_no_trouble_of_the_provider_ends_a_call(open_with: Any, played: Any, trouble: str) -> None:
    bridge = await open_with(answer_seconds=1)
    await silent(bridge)
    played.answers[path_of(SID)] = TROUBLES[trouble]
    report = await sweep(bridge)
    assert report.asked == {"unknown": 1}
    assert len(played.asked) == 1
    assert (await known(bridge))["tries"] == 1
    await assert_lives_on(bridge)
    # However often it is asked.
    for tries in (2, 3):
        await may_be_asked_again(bridge)
        assert (await sweep(bridge)).asked == {"unknown": 1}
        assert (await known(bridge))["tries"] == tries
        await assert_lives_on(bridge)
    # And the truth is heard when the provider is well again.
    await may_be_asked_again(bridge)
    played.answers[path_of(SID)] = (200, {}, ENDED)
    assert (await sweep(bridge)).asked == {"ended": 1}
    await bridge.drain()
    assert (await bridge.call(SID))["status"] == "completed"


async def test_a_provider_that_hangs_ends_no_call_and_delays_no_other(open_with: Any, played: Any) -> None:
    bridge = await open_with(answer_seconds=10)
    played.answers[path_of(SID)] = played.hang
    await silent(bridge)
    await silent(bridge, OTHER, status="completed")
    sweeping = asyncio.create_task(sweep(bridge))
    await asyncio.to_thread(until, lambda: played.asked)
    # The question is out, and nobody answers: what needs no answer is done.
    assert await asked_for(bridge, OTHER)
    await assert_lives_on(bridge)
    assert not sweeping.done()
    played.released.set()
    assert (await sweeping).asked == {"unknown": 1}
    await assert_lives_on(bridge)


async def test_a_sweep_asks_nobody_more_when_its_time_is_over(open_with: Any, played: Any) -> None:
    bridge = await open_with(answer_seconds=1, sweep_seconds=1)
    played.otherwise = played.hang
    sids = [f"CA{number:032x}" for number in range(20)]
    for sid in sids:
        await silent(bridge, sid)
    # Eight at a time, a second each: half a second is what the sweep has for questions.
    assert (await sweep(bridge)).asked == {"unknown": 8}
    for sid in sids:
        assert not await asked_for(bridge, sid)
    assert sum([bool(await known(bridge, sid)) for sid in sids]) == 8


async def refused_url() -> str:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("trouble", ["refused", "no TLS", "no such host"])
async def test_a_provider_that_is_not_reached_ends_no_call(bridge_with: Any, played: Any, trouble: str) -> None:
    url = {
        "refused": await refused_url(),
        "no TLS": played.url.replace("http:", "https:"),
        "no such host": "https://nowhere.invalid",
    }[trouble]
    bridge = await bridge_with(**{**CREDENTIALS, **SILENCE, "twilio_url": url})
    await silent(bridge)
    assert (await sweep(bridge)).asked == {"unknown": 1}
    await assert_lives_on(bridge)


async def test_a_provider_whose_certificate_nobody_trusts_gets_no_credentials(
    bridge_with: Any, played_with_tls: Any
) -> None:
    played_with_tls.answers[path_of(SID)] = (200, {}, ENDED)
    bridge = await bridge_with(**{**CREDENTIALS, **SILENCE, "twilio_url": played_with_tls.url})
    await silent(bridge)
    assert (await sweep(bridge)).asked == {"unknown": 1}
    assert played_with_tls.asked == []
    await assert_lives_on(bridge)


@pytest.fixture
def played_with_tls(certificate: Path, played: Any) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with contextlib.closing(type(played)(context)) as provider:
        yield provider


# -- how often --------------------------------------------------------------------------------------------------------


async def test_a_call_of_which_nothing_is_learnt_is_asked_about_later_and_later(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge)
    played.otherwise = (200, {}, "nonsense")
    waits = []
    for _ in range(9):
        assert (await sweep(bridge)).asked == {"unknown": 1}
        waits.append((await known(bridge))["next_ms"] - time.time() * 1000)
        # Until then nobody asks.
        assert not (await sweep(bridge)).asked
        await may_be_asked_again(bridge)
    for place, wait in enumerate(waits):
        least, most = 22_000 * 2**place, 31_000 * 2**place
        assert min(least, 899_000) < wait <= min(most, 901_000)
    assert len(played.asked) == len(waits)
    # An answer that it lives begins the count anew.
    played.otherwise = (200, {}, twilio("in-progress"))
    await sweep(bridge)
    assert "tries" not in await known(bridge)


@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        ((429, {"Retry-After": "120"}, ""), 110, 120),
        ((429, {"Retry-After": "999999"}, ""), 3590, 3600),
        ((429, {}, ""), 20, 30),
        ((503, {"Retry-After": "77"}, ""), 70, 77),
        ((500, {}, ""), 3, 10),
        ((401, {}, ""), 50, 60),
    ],
)
async def test_a_provider_in_trouble_is_left_alone_by_all_workers(
    open_with: Any, played: Any, answer: Any, least: float, most: float
) -> None:
    bridge, other = await open_with(), await open_with()
    await silent(bridge)
    played.otherwise = answer
    await sweep(bridge)
    assert least <= await bridge.redis.pttl("session-bridge:paused:twilio") / 1000 <= most
    await silent(bridge, OTHER)
    for one in (bridge, other):
        assert not (await sweep(one)).asked
    assert len(played.asked) == 1
    await assert_lives_on(bridge, OTHER)


async def test_all_workers_together_ask_no_more_than_so_often_a_minute(open_with: Any, played: Any) -> None:
    workers = [await open_with(questions_per_minute=7), await open_with(questions_per_minute=7)]
    bridge = workers[0]
    sids = [f"CA{number:032x}" for number in range(30)]
    for sid in sids:
        played.answers[path_of(sid)] = (200, {}, twilio("in-progress", sid))
        await silent(bridge, sid)
    for minute in range(1, 6):
        reports = await asyncio.gather(*[sweep(worker) for worker in workers for _ in range(3)])
        count = min(7 * minute, 30)
        assert len(played.asked) == count
        assert sum(report.asked["live"] for report in reports) == count - min(7 * (minute - 1), 30)
        assert not any(report.rescued for report in reports)
        # As if a minute had passed.
        for member in await bridge.redis.zrange("session-bridge:questions", 0, -1):
            await bridge.redis.zincrby("session-bridge:questions", -60_001, member)
    # Nobody was asked about twice, and those whose turn had not come waited unharmed.
    assert sorted({path for _, path, _, _ in played.asked}) == sorted(path_of(sid) for sid in sids)
    for sid in sids:
        await assert_lives_on(bridge, sid)


async def test_calls_that_end_are_no_more_than_the_sweep_may_ask_for(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    for number in range(6):
        sid = f"CA{number:032x}"
        played.answers[path_of(sid)] = (200, {}, ENDED | {"sid": sid})
        await silent(bridge, sid)
    # Each is checkpointed first, and that counts too.
    report = await sweep(bridge, limit=8)
    assert (report.checkpoints, report.rescued) == (6, 2)
    assert await bridge.redis.zcard(bridge.bridge.keys.ready) == 2


# -- a call that the provider does not know ---------------------------------------------------------------------------


async def test_a_call_that_is_long_not_known_is_nobodys(open_with: Any, played: Any) -> None:
    bridge = await open_with(not_found_seconds=86_400)
    await silent(bridge)
    missing: Any = (404, {}, {"code": 20404, "message": "not found", "status": 404})
    played.answers[path_of(SID)] = missing

    async def hours(count: float) -> None:
        await bridge.redis.hincrby(bridge.bridge.keys.asked(SID), "missing_ms", -int(count * 3_600_000))
        await may_be_asked_again(bridge)

    assert (await sweep(bridge)).asked == {"unknown": 1}
    await hours(23)
    await sweep(bridge)
    assert not await asked_for(bridge)
    # A single other answer begins the day anew, also one that tells nothing.
    played.answers[path_of(SID)] = (500, {}, "")
    await hours(2)
    await sweep(bridge)
    played.answers[path_of(SID)] = (200, {}, twilio("ringing"))
    await may_be_asked_again(bridge)
    await sweep(bridge)
    assert "missing_ms" not in await known(bridge)
    played.answers[path_of(SID)] = missing
    await may_be_asked_again(bridge)
    await sweep(bridge)
    assert not await asked_for(bridge)
    await hours(24)
    await sweep(bridge)
    assert await asked_for(bridge)
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["status_by"]) == ("abandoned", "inferred")


# -- the other providers ----------------------------------------------------------------------------------------------


def exotel(status: str, **more: Any) -> dict[str, Any]:
    shown = {
        "Sid": EXOTEL_SID, "ParentCallSid": None, "AccountSid": "acme1", "Status": status, "Direction": "inbound",
        "From": "05550100", "To": "05550199", "StartTime": "2026-11-21 15:30:00", "EndTime": None, "Duration": None,
        "RecordingUrl": None,
    }  # fmt: skip
    return {"Call": shown | more}


async def test_exotel(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    path = f"/v1/Accounts/acme1/Calls/{EXOTEL_SID}.json"
    await silent(bridge, EXOTEL_SID, provider="Exotel")
    for answer, word in (
        (exotel("in-progress"), "live"),
        (exotel("no word of theirs"), "unknown"),
        (exotel("completed", Sid="0" * 32), "unknown"),
        ({"Call": [exotel("completed")]}, "unknown"),
        ({"Calls": []}, "unknown"),
    ):
        played.answers[path] = (200, {}, answer)
        assert (await sweep(bridge)).asked == {word: 1}
        await assert_lives_on(bridge, EXOTEL_SID)
        await may_be_asked_again(bridge, EXOTEL_SID)
    played.answers[path] = (404, {}, {"RestException": {"Status": 404, "Message": "Call not found"}})
    assert (await sweep(bridge)).asked == {"unknown": 1}
    assert "missing_ms" in await known(bridge, EXOTEL_SID)
    await may_be_asked_again(bridge, EXOTEL_SID)

    ended = exotel("busy", EndTime="2026-11-21 15:31:10", Duration="70", RecordingUrl="https://example.test/r.mp3")
    played.answers[path] = (200, {}, ended)
    assert (await sweep(bridge)).asked == {"ended": 1}
    await bridge.drain()
    call = await bridge.call(EXOTEL_SID)
    assert (call["status"], call["status_by"], call["from_number"]) == ("busy", "exotel", "05550100")
    # Its times are India's.
    assert call["ended_at"].isoformat() == "2026-11-21T10:01:10+00:00"
    assert call["recording_url"] == "https://example.test/r.mp3"
    authorization = {headers["Authorization"] for _, _, headers, _ in played.asked}
    assert authorization == {"Basic " + base64.b64encode(f"exokey:{TOKEN}".encode()).decode()}


def room(name: str, sid: str) -> dict[str, Any]:
    return {"sid": sid, "name": name, "num_participants": 2, "creation_time": "1763719200", "active_recording": False}


async def test_livekit(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge, ROOM_SID, provider="livekit", room_name="lobby")
    for rooms, word in (
        ({"rooms": [room("lobby", ROOM_SID)]}, "live"),
        ({"rooms": [room("hall", "RM_other"), room("lobby", ROOM_SID)]}, "live"),
        ({"rooms": []}, "unknown"),
        # Another room says nothing of ours: an old server leaves the filter out.
        ({"rooms": [room("hall", "RM_other")]}, "unknown"),
        ({"rooms": None}, "unknown"),
        ({"rooms": ["lobby"]}, "unknown"),
        ({}, "unknown"),
    ):
        played.answers[ROOMS] = (200, {}, rooms)
        assert (await sweep(bridge)).asked == {word: 1}, rooms
        await assert_lives_on(bridge, ROOM_SID)
        await may_be_asked_again(bridge, ROOM_SID)
    # Its name stands for another room now.
    played.answers[ROOMS] = (200, {}, {"rooms": [room("lobby", "RM_other")]})
    assert (await sweep(bridge)).asked == {"ended": 1}
    await bridge.drain()
    call = await bridge.call(ROOM_SID)
    assert (call["status"], call["status_by"]) == ("completed", "livekit")

    method, _, headers, body = played.asked[-1]
    assert (method, json.loads(body)) == ("POST", {"names": ["lobby"]})
    signed, _, signature = headers["Authorization"].removeprefix("Bearer ").rpartition(".")
    digest = hmac.new(TOKEN.encode(), signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == signature
    head, claims = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split(".")]
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert (claims["iss"], claims["video"]) == ("livekey", {"roomList": True})
    assert claims["nbf"] < time.time() < claims["exp"] < time.time() + 61


async def test_a_livekit_room_that_is_listed_nowhere_for_minutes_is_nobodys(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge, "AJ_4hT9fPq2Lm8x", provider="livekit", room_name="lobby")
    played.answers[ROOMS] = (200, {}, {"rooms": []})
    await sweep(bridge)
    await assert_lives_on(bridge, "AJ_4hT9fPq2Lm8x")
    await bridge.redis.hincrby(bridge.bridge.keys.asked("AJ_4hT9fPq2Lm8x"), "missing_ms", -300_000)
    await may_be_asked_again(bridge, "AJ_4hT9fPq2Lm8x")
    await sweep(bridge)
    await bridge.drain()
    call = await bridge.call("AJ_4hT9fPq2Lm8x")
    assert (call["status"], call["status_by"]) == ("abandoned", "inferred")


async def test_a_livekit_room_without_a_name_is_looked_for_among_all(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge, ROOM_SID, provider="livekit")
    played.answers[ROOMS] = (200, {}, {"rooms": [room("a", "RM_other"), room("b", ROOM_SID)]})
    assert (await sweep(bridge)).asked == {"live": 1}
    assert json.loads(played.asked[-1][3]) == {}
    await may_be_asked_again(bridge, ROOM_SID)
    played.answers[ROOMS] = (200, {}, {"rooms": [room("a", "RM_other")]})
    assert (await sweep(bridge)).asked == {"unknown": 1}


# -- who is asked, and who is not -------------------------------------------------------------------------------------


async def test_a_subaccounts_call_is_asked_about_there(open_with: Any, played: Any) -> None:
    bridge = await open_with(twilio_api_key="SK1", twilio_api_secret="secret")
    subaccount = "AC" + "5" * 32
    await silent(bridge, account_sid=subaccount)
    await silent(bridge, OTHER, account_sid="../../Accounts/x")
    played.answers[path_of(SID, subaccount)] = (200, {}, twilio("ringing"))
    played.answers[path_of(OTHER)] = (200, {}, twilio("ringing", OTHER))
    assert (await sweep(bridge)).asked == {"live": 2}
    # A key goes before the account's token.
    basic = "Basic " + base64.b64encode(b"SK1:secret").decode()
    assert {headers["Authorization"] for _, _, headers, _ in played.asked} == {basic}


@pytest.mark.parametrize(
    ("sid", "fields"),
    [
        (SID, {"provider": "plivo"}),
        (SID, {"provider": ""}),
        ("+15550100", {}),
        ("CA1/../../Accounts", {}),
        ("AJ_4hT9fPq2Lm8x", {"provider": "livekit"}),
    ],
)
async def test_a_call_that_nobody_can_be_asked_about_is_abandoned_as_ever(
    open_with: Any, played: Any, sid: str, fields: dict[str, str]
) -> None:
    bridge = await open_with()
    await silent(bridge, sid, **fields)
    assert (await sweep(bridge)).rescued == 1
    assert await asked_for(bridge, sid)
    assert played.asked == []


@pytest.mark.parametrize(
    "given",
    [
        {"twilio_auth_token": None},
        {"twilio_auth_token": ""},
        {"twilio_account_sid": None},
        {"questions_per_minute": 0},
    ],
)
async def test_without_credentials_all_is_as_ever(open_with: Any, played: Any, given: dict[str, Any]) -> None:
    bridge = await open_with(**given)
    await silent(bridge)
    assert (await sweep(bridge)).rescued == 1
    await bridge.drain()
    assert (await bridge.call(SID))["status"] == "abandoned"
    assert played.asked == []
    assert await bridge.redis.keys("session-bridge:asked:*") == []


async def test_a_dry_run_says_who_would_be_asked_about_and_asks_nobody(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge)
    report = await sweep(bridge, dry_run=True)
    assert [(sid, decision.action, decision.reason) for sid, decision in report.decisions] == [(SID, "ask", "silent")]
    assert played.asked == []
    assert await bridge.redis.keys("session-bridge:*") == [b"session-bridge:archive"]
    assert await bridge.redis.pttl(bridge.key(SID)) > 0


async def test_neither_an_end_that_is_known_nor_late_data_is_asked_about(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge, status="completed")
    await sweep(bridge)
    await bridge.drain()
    await bridge.write(SID, recording_url="https://example.test/1")
    await sweep(bridge)
    await bridge.drain()
    assert (await bridge.call(SID))["recording_url"] == "https://example.test/1"
    assert played.asked == []


async def test_while_the_archive_is_away_calls_are_asked_about_all_the_same(
    open_with: Any, played: Any, database_url: str, proxy_to: Any
) -> None:
    proxy, through = proxy_to(database_url)
    bridge = await open_with(database_url=through)
    await silent(bridge)
    await silent(bridge, OTHER)
    played.answers[path_of(SID)] = (200, {}, twilio("in-progress"))
    played.answers[path_of(OTHER)] = (200, {}, ENDED | {"sid": OTHER})
    proxy.cut()
    report = await sweep(bridge)
    assert report.archive_away
    assert report.asked == {"live": 1, "ended": 1}
    assert not await asked_for(bridge)
    assert await asked_for(bridge, OTHER)


# -- what happens meanwhile -------------------------------------------------------------------------------------------


async def test_a_session_that_goes_while_its_provider_thinks_is_not_made_anew(
    open_with: Any, played: Any, redis_url: str
) -> None:
    import redis

    bridge = await open_with()
    for sid, status in ((SID, "completed"), (OTHER, "in-progress")):
        await silent(bridge, sid)

        def gone(handler: BaseHTTPRequestHandler, sid: str = sid, status: str = status) -> None:
            with redis.Redis.from_url(redis_url) as client:
                client.delete(f"session:{sid}")
            raw = json.dumps(twilio(status, sid)).encode()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw)

        played.answers[path_of(sid)] = gone
    report = await sweep(bridge)
    assert report.asked == {"ended": 1, "live": 1}
    for sid in (SID, OTHER):
        assert not await bridge.redis.exists(bridge.key(sid))
        assert not await asked_for(bridge, sid)
        assert await known(bridge, sid) == {} or sid == SID


async def test_a_status_that_is_said_meanwhile_stays(open_with: Any, played: Any, redis_url: str) -> None:
    import redis

    bridge = await open_with()
    await silent(bridge)

    def heard(handler: BaseHTTPRequestHandler) -> None:
        with redis.Redis.from_url(redis_url) as client:
            said = {"status": "busy", "status_by": "twilio", "status_sequence": "3", "ended_at": "2026-11-21T10:00:05Z"}
            client.hset(f"session:{SID}", mapping=said)
        raw = json.dumps(ENDED).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    played.answers[path_of(SID)] = heard
    await sweep(bridge)
    await bridge.drain()
    call = await bridge.call(SID)
    assert (call["status"], call["status_by"], call["status_sequence"]) == ("busy", "twilio", 3)
    assert call["ended_at"].isoformat() == "2026-11-21T10:00:05+00:00"


async def test_a_sign_of_life_ends_the_asking(open_with: Any, played: Any) -> None:
    bridge = await open_with()
    await silent(bridge)
    played.otherwise = (500, {}, "")
    await sweep(bridge)
    await bridge.write(SID, last_activity_at=str(time.time()))
    await may_be_asked_again(bridge)
    assert not (await sweep(bridge)).asked
    assert len(played.asked) == 1
