"""What each provider's callbacks say of a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from session_bridge.drain.call import Call
from session_bridge.drain.combine import combine
from session_bridge.drain.understand import Understanding
from session_bridge.errors import SettingsError, UnreadableCallbackError
from session_bridge.webhooks import exotel, facts, livekit, plivo, standard, twilio
from session_bridge.webhooks.callback import Callback
from session_bridge.webhooks.news import News
from session_bridge.webhooks.origin import Origin
from session_bridge.webhooks.vapi import Vapi

INDIA = ZoneInfo("Asia/Kolkata")


def only(news: list[News]) -> News:
    [one] = news
    return one


def kept(news: News) -> dict[str, Any]:
    """What was kept as it came."""
    [value] = [value for name, value in news.fields.items() if name.startswith("callback:")]
    body: dict[str, Any] = json.loads(value)["body"]
    return body


def call_of(*news: News) -> Call:
    """What a drain makes of these, each archived before the next one comes."""
    archived: Call | None = None
    for one in news:
        raw = {name.encode(): value.encode() for name, value in one.fields.items()}
        call = Understanding().call(one.call_sid, raw, {})
        assert call.rejects == []
        archived = combine(archived, call, requested=one.ended)
    assert archived
    return archived


# -- Twilio -----------------------------------------------------------------------------------------------------------

TWILIO = {"CallSid": "CA1", "AccountSid": "AC1", "From": "+15550100", "To": "+15550101", "Direction": "outbound-api"}
AT = "Fri, 20 Nov 2026 10:01:00 +0000"


def test_twilios_end_counts_seconds_and_not_minutes() -> None:
    body = TWILIO | {"CallStatus": "completed", "Timestamp": AT, "CallDuration": "45", "Duration": "1"}
    news = only(twilio.understand(body | {"SequenceNumber": "3", "CallerCity": "GHENT"}))
    assert (news.call_sid, news.ended, news.reason) == ("CA1", True, "twilio status callback")
    assert news.fields["answered_at"] == "2026-11-20T10:00:15+00:00"
    assert news.fields["ended_at"] == news.fields["last_activity_at"] == "2026-11-20T10:01:00+00:00"
    assert (news.fields["direction"], news.fields["status_sequence"]) == ("outbound", "3")
    assert kept(news) == {"CallerCity": "GHENT", "Direction": "outbound-api"}


@pytest.mark.parametrize("word", ["busy", "failed", "no-answer", "canceled"])
def test_twilios_other_ends_say_why(word: str) -> None:
    news = only(twilio.understand(TWILIO | {"CallStatus": word, "Timestamp": AT, "CallDuration": "0"}))
    assert news.ended
    assert news.fields["end_reason"] == word
    assert "answered_at" not in news.fields


@pytest.mark.parametrize("word", ["queued", "initiated", "ringing", "in-progress", "", "something new"])
def test_twilios_other_statuses_are_no_end(word: str) -> None:
    assert not only(twilio.understand(TWILIO | {"CallStatus": word})).ended


def test_a_recording_of_twilio_is_no_sign_of_life_and_no_end() -> None:
    body = {"CallSid": "CA1", "RecordingSid": "RE1", "RecordingStatus": "completed", "RecordingChannels": "2"}
    body |= {"RecordingUrl": "https://a.test/RE1", "RecordingDuration": "58", "RecordingStartTime": AT}
    news = only(twilio.understand(body))
    assert not news.ended
    assert not {"last_activity_at", "status", "ended_at"} & news.fields.keys()
    call = call_of(only(twilio.understand(TWILIO | {"CallStatus": "completed", "Timestamp": AT})), news)
    assert call.state["recording_url"] == "https://a.test/RE1"
    assert call.state["recording_duration_seconds"] == 58
    assert {"recording_sid", "recording_url", "recording_duration_seconds"} <= call.inferred


def test_the_ready_recording_holds_whichever_callback_comes_first() -> None:
    body = {"CallSid": "CA1", "RecordingSid": "RE1"}
    begun = only(twilio.understand(body | {"RecordingStatus": "in-progress"}))
    ready = only(twilio.understand(body | {"RecordingStatus": "completed", "RecordingUrl": "https://a.test/RE1"}))
    for order in ((begun, ready), (ready, begun), (ready, begun, begun)):
        [recording] = call_of(*order).events["recording"]  # type: ignore[index]  # a family is its name
        assert recording.status == "completed"


def test_twilios_examples_of_its_api_are_understood(shared_vectors: Path) -> None:
    """The bodies of the REST API have other names; what matters is that no status in them is unknown."""
    words = json.loads((shared_vectors / "twilio_rest_examples.json").read_text())["call_status_enum"]
    ends = {word for word in words if only(twilio.understand(TWILIO | {"CallStatus": word})).ended}
    assert ends == {"completed", "busy", "failed", "no-answer", "canceled"}


# -- Exotel -----------------------------------------------------------------------------------------------------------

EXOTEL = {"CallSid": "e1", "EventType": "terminal", "Status": "completed", "DateUpdated": "2026-11-20 15:31:02"}


def test_exotels_times_are_in_the_zone_of_the_setting() -> None:
    body = EXOTEL | {"StartTime": "2026-11-20 15:30:00", "EndTime": "2026-11-20 15:31:00", "Direction": "outbound-dial"}
    news = only(exotel.understand(body, INDIA))
    assert news.ended
    assert news.fields["started_at"] == "2026-11-20T10:00:00+00:00"
    assert news.fields["ended_at"] == "2026-11-20T10:01:00+00:00"
    assert only(exotel.understand(body, ZoneInfo("UTC"))).fields["ended_at"] == "2026-11-20T15:31:00+00:00"


def test_exotels_two_forms_say_the_same() -> None:
    flat = EXOTEL | {"Legs[0][OnCallDuration]": "30", "Legs[0][Status]": "completed", "Legs[1][OnCallDuration]": "29"}
    legs = [{"OnCallDuration": "30", "Status": "completed"}, {"OnCallDuration": "29"}]
    nested: dict[str, Any] = {**EXOTEL, "Legs": legs}
    assert only(exotel.understand(flat, INDIA)).fields == only(exotel.understand(nested, INDIA)).fields
    assert kept(only(exotel.understand(flat, INDIA)))["Legs"] == legs


def test_what_a_passthru_says_of_an_end_is_no_end() -> None:
    body = {"CallSid": "e1", "CallFrom": "+15550100", "CallStatus": "completed", "DialCallStatus": "busy"}
    news = only(exotel.understand(body, INDIA))
    assert not news.ended
    assert "status" not in news.fields
    assert news.fields["from_number"] == "+15550100"
    assert not only(exotel.understand(EXOTEL | {"EventType": "answered"}, INDIA)).ended


# -- LiveKit ----------------------------------------------------------------------------------------------------------


def livekit_event(event: str, at: int, **more: Any) -> dict[str, Any]:
    room = {"sid": "RM_1", "name": "room-1", "creationTime": "1763632800"}
    return {"event": event, "id": "EV_1", "createdAt": str(1_763_632_800 + at), "room": room} | more


def test_a_room_of_livekit_is_a_call() -> None:
    began = only(livekit.understand(livekit_event("room_started", 0)))
    over = only(livekit.understand(livekit_event("room_finished", 60)))
    assert (began.ended, over.ended) == (False, True)
    for order in ((began, over), (over, began)):
        call = call_of(*order)
        assert (call.state["status"], call.state["room_name"]) == ("completed", "room-1")
        assert call.state["ended_at"] == facts.moment(1_763_632_860)
        assert call.state["started_at"] == facts.moment(1_763_632_800)


def test_a_participant_joins_and_leaves_in_any_order() -> None:
    sip = {"sip.phoneNumber": "+15550100", "sip.trunkPhoneNumber": "+15550101", "sip.ruleID": "SDR_1"}
    caller = {"sid": "PA_1", "identity": "sip_1", "kind": "SIP", "joinedAtMs": "1763632802000", "attributes": sip}
    joined = only(livekit.understand(livekit_event("participant_joined", 2, participant=caller)))
    left = caller | {"disconnectReason": "CLIENT_INITIATED"}
    gone = only(livekit.understand(livekit_event("participant_left", 50, participant=left)))
    for order in ((joined, gone), (gone, joined)):
        call = call_of(*order)
        [participant] = call.events["participant"]  # type: ignore[index]  # a family is its name
        assert participant.disconnect_reason == "CLIENT_INITIATED"
        assert (call.state["from_number"], call.state["to_number"]) == ("+15550100", "+15550101")
        assert call.state["direction"] == "inbound"


def test_what_is_no_rooms_is_nothing_and_what_is_new_is_kept() -> None:
    assert livekit.understand({"event": "track_published", "room": {"sid": "RM_1"}}) == []
    assert livekit.understand({"event": "egress_started", "egressInfo": {"egressId": "EG_1"}}) == []
    news = only(livekit.understand(livekit_event("room_painted", 5, colour="red")))
    assert (kept(news), news.ended) == ({"colour": "red"}, False)
    with pytest.raises(UnreadableCallbackError):
        livekit.understand({"hello": "world"})


@pytest.mark.parametrize("form", [int, str])
def test_a_livekit_recording_of_an_hour_has_its_start_and_its_length(form: type) -> None:
    # As protobuf's JSON has it: 64 bits, in nanoseconds, as text.
    start, length = 1_763_632_800_500_000_000, 3_600_250_000_000
    file = {"filename": "s3://b/1.mp4", "startedAt": form(start), "endedAt": form(start + length)}
    egress = {"egressId": "EG_1", "roomId": "RM_1", "startedAt": form(start - 10**9), "status": "EGRESS_COMPLETE"}
    for files in ({"fileResults": [file | {"duration": form(length)}]}, {"file": file | {"duration": form(length)}}):
        news = only(livekit.understand({"event": "egress_ended", "egressInfo": egress | files}))
        recording = json.loads(news.fields["recording:EG_1"])
        assert recording["duration_seconds"] == 3600.25
        assert recording["timestamp"] == "2025-11-20T10:00:00.500000+00:00"
    running = only(livekit.understand({"event": "egress_started", "egressInfo": egress | {"file": {"startedAt": "0"}}}))
    assert json.loads(running.fields["recording:EG_1"])["timestamp"] == "2025-11-20T09:59:59.500000+00:00"
    hostile: tuple[Any, ...] = (-1, 2**63, "9" * 30, "1e400", [], True)
    for nonsense in hostile:
        broken = egress | {"startedAt": nonsense, "file": {"duration": nonsense}}
        event = only(livekit.understand({"event": "egress_ended", "egressInfo": broken})).fields["recording:EG_1"]
        assert not {"duration_seconds", "timestamp"} & json.loads(event).keys()


# -- Plivo, Vapi, Standard Webhooks -----------------------------------------------------------------------------------


def test_plivos_hangup_has_times_and_a_price() -> None:
    body = {"CallUUID": "u1", "Event": "Hangup", "CallStatus": "completed", "TotalCost": "0.01300"}
    body |= {"StartTime": "2026-11-20 10:00:00", "AnswerTime": "2026-11-20 10:00:05", "EndTime": "2026-11-20 10:01:00"}
    news = only(plivo.understand(body | {"HangupCauseName": "Normal Hangup"}))
    assert news.ended
    assert json.loads(news.fields["cost:plivo-call"])["amount_cents"] == 1.3
    assert kept(news) == {"HangupCauseName": "Normal Hangup"}
    assert call_of(news).state["ended_at"].isoformat() == "2026-11-20T10:01:00+00:00"  # type: ignore[union-attr]


@pytest.mark.parametrize(("word", "status"), [("timeout", "no_answer"), ("cancel", "canceled"), ("busy", "busy")])
def test_plivos_words_for_an_end(word: str, status: str) -> None:
    news = only(plivo.understand({"CallUUID": "u1", "CallStatus": word}))
    assert news.ended
    assert call_of(news).state["status"] == status


def test_what_vapis_report_says_again_is_not_written_twice(shared_vectors: Path) -> None:
    messages = json.loads((shared_vectors / "vapi_server_messages.json").read_text())["messages"]
    vapi = Vapi("secret")
    written: list[str] = []
    silent: list[str] = []
    for body in messages:
        message = body.get("message", {})
        call = dict(message.get("call") or {}) | {"id": "v1"}
        news = vapi.understand({**body, "message": {**message, "call": call}})
        (written if news else silent).append(message.get("type"))
    assert {"status-update", "end-of-call-report", "hang", "transfer-update"} <= set(written)
    assert {"conversation-update", "transcript", "speech-update", "model-output"} <= set(silent)


def test_a_standard_webhook_that_brings_only_a_price_is_no_sign_of_life() -> None:
    body: dict[str, Any] = {"type": "call.updated", "timestamp": "2026-11-20T13:00:00Z"}
    price = body | {"data": {"call_sid": "CA1", "cost:1": {"service": "llm", "amount_cents": 5}}}
    assert "last_activity_at" not in only(standard.understand(price)).fields
    told = body | {"data": {"call_sid": "CA1", "agent_name": "Ann"}}
    assert only(standard.understand(told)).fields["last_activity_at"] == "2026-11-20T13:00:00+00:00"


def test_standard_webhooks_have_the_contracts_names() -> None:
    data: dict[str, Any] = {"call_sid": "c1", "status": "busy", "metadata": {"a": 1}, "colour": "red"}
    data |= {"message:1": {"role": "user", "content": "x"}, "status_by": "me", "finalized_by": "me"}
    news = only(standard.understand({"type": "call.updated", "timestamp": "2026-11-20T10:00:00Z", "data": data}))
    assert (news.ended, news.fields["status_sequence"]) == (True, "1795168800000")
    assert json.loads(news.fields["metadata"]) == {"a": 1}
    assert kept(news) == {"colour": "red"}
    assert not {"status_by", "finalized_by"} & news.fields.keys()
    with pytest.raises(UnreadableCallbackError):
        standard.understand({"type": "call.ended"})


# -- bodies, values, URLs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableCallbackError):
        Callback("POST", "", {}, body).json()


@pytest.mark.parametrize("body", [b"\xff=1", b"a&" * 1001])
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableCallbackError):
        Callback("POST", "", {}, body).form()


MULTIPART = {"content-type": 'multipart/form-data; charset=utf-8; boundary="----b 1"'}


def parts(*fields: tuple[str, str], end: str = "------b 1--\r\n") -> bytes:
    """A form as curl sends it."""
    heads = [f'------b 1\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return ("".join(heads) + end).encode()


def test_a_form_may_come_in_parts() -> None:
    body = parts(("CallSid", "e1"), ("Legs[0][Status]", "completed"), ("Note", "two\r\nlines, ₹5\r\n"), ("Empty", ""))
    body = body.replace(b'form-data; name="Note"', b'FORM-DATA; x="a;b";\r\n name=Note')
    file = b'------b 1\r\nContent-Disposition: form-data; name="f"; filename="f.mp3"\r\n\r\n\xff\x00\r\n'
    callback = Callback("POST", "", MULTIPART, b"ignored\r\n" + file + body)
    expected = [("CallSid", "e1"), ("Legs[0][Status]", "completed"), ("Note", "two\r\nlines, ₹5\r\n"), ("Empty", "")]
    assert callback.form() == expected
    assert only(exotel.understand(callback.fields(), INDIA)).call_sid == "e1"
    assert len(Callback("POST", "", MULTIPART, parts(*[("a", "b")] * 1000)).form()) == 1000


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (parts(("a", "b")), {"content-type": "multipart/form-data"}),
        (parts(("a", "b")), {"content-type": "multipart/form-data; boundary=other"}),
        (parts(("a", "b"), end=""), MULTIPART),
        (parts(*[("a", "b")] * 1001), MULTIPART),
        (parts(("a", "b")).replace(b"b\r\n-", b"\xff\r\n-"), MULTIPART),
        (parts(("a", "b")).replace(b'"a"', b'"\xff"'), MULTIPART),
        (parts(("a", "b")).replace(b'"a"', b";" * 1_000_000), MULTIPART),
        (b"", MULTIPART),
    ],
)
def test_what_is_no_form_in_parts_is_refused(body: bytes, headers: dict[str, str]) -> None:
    with pytest.raises(UnreadableCallbackError):
        Callback("POST", "", headers, body).form()


def test_a_head_that_python_reads_or_not_is_a_field_or_no_form() -> None:
    body = parts(("a", "b")).replace(b'name="a"', b"name*=x;name*0=y")
    try:
        # Some versions of Python take such a name, others meet it with a TypeError.
        [(_, content)] = Callback("POST", "", MULTIPART, body).form()
        assert content == "b"
    except UnreadableCallbackError as error:
        assert "no form" in str(error)  # noqa: PT017  # it depends on Python which of the two holds


def test_the_first_of_several_fields_counts() -> None:
    assert Callback("POST", "", {}, b"a=1&a=2&b=").fields() == {"a": "1", "b": ""}


def test_values_that_make_no_sense_are_none() -> None:
    values: list[Any] = ["", "null", None, "x", "nan", "inf", "1e400", "-1", [], {}, True, 10**20]
    assert [facts.number(value) for value in values] == [None] * len(values)
    moments: list[Any] = ["", "tomorrow", True, "99999999999999999999", "0001-01-01T00:00:00Z", [], "Fri, 99 Nov"]
    assert [facts.moment(value) for value in moments] == [None] * len(moments)


def scope(path: str, client: str, **headers: str) -> dict[str, Any]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"a=%2B",
        "client": (client, 1), "headers": [(b"host", b"inside:8090"), *pairs],
    }  # fmt: skip


def test_the_public_url_is_set_or_told_by_a_trusted_proxy() -> None:
    told = {"x_forwarded_proto": "https, http", "x_forwarded_host": "calls.test", "x_forwarded_port": "443"}
    request = scope("/hooks/tw%20ilio", "10.0.0.1", **told)
    assert Origin.of(None, []).url(request) == "http://inside:8090/hooks/tw%20ilio?a=%2B"
    assert Origin.of(None, ["10.0.0.0/8"]).url(request) == "https://calls.test/hooks/tw%20ilio?a=%2B"
    assert Origin.of("https://set.test/", ["10.0.0.0/8"]).url(request) == "https://set.test/hooks/tw%20ilio?a=%2B"


@pytest.mark.parametrize("url", ["calls.example.com", "ftp://calls.example.com", "https://[calls", "https://a?b"])
def test_a_public_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="write https://"):
        Origin.of(url, [])


def test_the_sender_is_the_last_whom_no_trusted_proxy_is() -> None:
    origin = Origin.of(None, ["10.0.0.0/8"])
    chain = "203.0.113.9, 198.51.100.7, 10.0.0.2"
    assert origin.address(scope("/", "10.0.0.1", x_forwarded_for=chain)) == "198.51.100.7"
    assert origin.address(scope("/", "::ffff:10.0.0.1", x_forwarded_for=chain)) == "198.51.100.7"
    assert origin.address(scope("/", "192.0.2.1", x_forwarded_for=chain)) == "192.0.2.1"
    assert origin.address(scope("/", "10.0.0.1", x_forwarded_for="[2001:db8::7]:443")) == "2001:db8::7"
    assert origin.address(scope("/", "10.0.0.1", x_forwarded_for="198.51.100.7:5060")) == "198.51.100.7"
