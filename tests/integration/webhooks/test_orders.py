"""The same callbacks in any order, repeated and late, make one and the same archive."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import pytest

ORDERS = 100
START = datetime.fromtimestamp(int(time.time()) - 300, UTC)
FROM, TO = "+15550100", "+15550101"

Bodies: TypeAlias = list[dict[str, Any]]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def twilio(sid: str) -> Bodies:
    parties = {"AccountSid": "AC1", "From": FROM, "To": TO, "Direction": "outbound-api", "CallerCity": "GHENT"}
    steps: Bodies = [
        {"CallStatus": status, "SequenceNumber": str(number), "Timestamp": format_datetime(at(seconds))}
        for number, (status, seconds) in enumerate([("initiated", 0), ("ringing", 2), ("in-progress", 7)])
    ]
    last = {"CallStatus": "completed", "SequenceNumber": "3", "Timestamp": format_datetime(at(67))}
    steps.append(last | {"CallDuration": "60", "Duration": "1", "SipResponseCode": "200"})
    recording = {"CallSid": sid, "AccountSid": "AC1", "RecordingSid": "RE1", "RecordingSource": "DialVerb"}
    done = {"RecordingUrl": "https://api.twilio.test/RE1", "RecordingDuration": "59", "RecordingChannels": "2"}
    return [{"CallSid": sid} | parties | step for step in steps] + [
        recording | {"RecordingStatus": "in-progress", "RecordingStartTime": format_datetime(at(8))},
        recording | {"RecordingStatus": "completed", "RecordingStartTime": format_datetime(at(8))} | done,
        recording | {"RecordingSid": "RE2", "RecordingStatus": "absent", "RecordingStartTime": format_datetime(at(9))},
    ]


def exotel(sid: str) -> Bodies:
    def india(seconds: float) -> str:
        return at(seconds).astimezone(ZoneInfo("Asia/Kolkata")).strftime("%Y-%m-%d %H:%M:%S")

    common = {"CallSid": sid, "From": FROM, "To": TO, "Direction": "outbound-api", "StartTime": india(0)}
    leg = {"OnCallDuration": 55, "Status": "completed"}
    return [
        {"CallSid": sid, "CallFrom": FROM, "CallTo": TO, "Direction": "outbound-api", "CallStatus": "in-progress"},
        common | {"EventType": "answered", "Status": "in-progress", "DateUpdated": india(5), "RecordingUrl": ""},
        common
        | {"EventType": "terminal", "Status": "completed", "DateUpdated": india(62), "EndTime": india(60)}
        | {"RecordingUrl": "https://exotel.test/r.mp3", "ConversationDuration": 55, "Legs": [leg, leg]},
    ]


def livekit(sid: str) -> Bodies:
    created = str(int(START.timestamp()))

    def event(name: str, seconds: int, **more: Any) -> dict[str, Any]:
        room = {"sid": sid, "name": "room-1", "creationTime": created}
        return {"event": name, "id": f"EV_{name}", "createdAt": str(int(at(seconds).timestamp())), "room": room} | more

    sip = {"sip.phoneNumber": FROM, "sip.trunkPhoneNumber": TO, "sip.ruleID": "SDR_1", "sip.twilio.callSid": "CA7"}
    joined = str(int(at(2).timestamp() * 1000))
    caller = {"sid": "PA_1", "identity": "sip_1", "kind": "SIP", "attributes": sip, "joinedAtMs": joined}
    agent = {"sid": "PA_2", "identity": "agent-1", "kind": "AGENT", "joinedAtMs": joined}
    file = {"location": "s3://bucket/1.ogg", "duration": "58000000000", "startedAt": str(int(at(3).timestamp() * 1e9))}
    egress = {"egressId": "EG_1", "roomId": sid, "roomName": "room-1", "status": "EGRESS_ACTIVE"}
    ended = egress | {"status": "EGRESS_COMPLETE", "fileResults": [file]}
    report = {
        "job_id": "AJ_1",
        "room_id": sid,
        "room": "room-1",
        "timestamp": at(60).timestamp(),
        "duration": 58.5,
        "started_at": at(1.5).timestamp(),
        "chat_history": {
            "items": [
                {
                    "id": "item_1",
                    "type": "message",
                    "role": "assistant",
                    "content": ["Hello?"],
                    "created_at": at(4).timestamp(),
                },
                {
                    "id": "item_2",
                    "type": "message",
                    "role": "user",
                    "content": ["Good day."],
                    "created_at": at(6).timestamp(),
                },
            ]
        },
    }
    return [
        event("room_started", 0),
        event("participant_joined", 2, participant=caller | {"state": "ACTIVE"}),
        event("participant_joined", 2, participant=agent | {"state": "ACTIVE"}),
        event("egress_started", 3, egressInfo=egress) | {"room": None},
        event("agent_job_started", 3, job={"id": "AJ_1"}),
        event("participant_left", 61, participant=caller | {"disconnectReason": "CLIENT_INITIATED"}),
        event("participant_left", 62, participant=agent | {"disconnectReason": "ROOM_DELETED"}),
        event("room_finished", 63),
        event("egress_ended", 65, egressInfo=ended) | {"room": None},
        event("track_published", 3),
        report,
    ]


def plivo(sid: str) -> Bodies:
    def utc(seconds: float) -> str:
        return at(seconds).strftime("%Y-%m-%d %H:%M:%S")

    common = {"CallUUID": sid, "From": FROM, "To": TO, "Direction": "outbound"}
    hangup: dict[str, str] = {
        "HangupCauseName": "Normal Hangup",
        "HangupSource": "Callee",
        "Duration": "50",
        "TotalCost": "0.01300",
    }
    times = {"StartTime": utc(0), "AnswerTime": utc(4), "EndTime": utc(54)}
    recording = {"RecordUrl": "https://plivo.test/1.mp3", "RecordingID": "r-1", "RecordingDurationMs": "49000"}
    return [
        common | {"Event": "Ring", "CallStatus": "ringing"},
        common | {"Event": "StartApp", "CallStatus": "in-progress"},
        common | {"Event": "Hangup", "CallStatus": "completed"} | times | hangup,
        common | recording | {"CallStatus": "in-progress", "Event": "RecordStop"},
    ]


def vapi(sid: str) -> Bodies:
    def message(kind: str, seconds: float, **more: Any) -> dict[str, Any]:
        call = {"id": sid, "type": "inboundPhoneCall", "orgId": "org-1"}
        customer, phone = {"number": FROM}, {"number": TO}
        head: dict[str, Any] = {"type": kind, "timestamp": int(at(seconds).timestamp() * 1000), "call": call}
        return {"message": head | {"customer": customer, "phoneNumber": phone} | more}

    said = [
        {"role": "bot", "message": "Hello?", "time": at(3).timestamp() * 1000, "secondsFromStart": 1},
        {"role": "user", "message": "Good day.", "time": at(5).timestamp() * 1000, "secondsFromStart": 3},
    ]
    return [
        message("status-update", 1, status="ringing"),
        message("status-update", 2, status="in-progress"),
        message("speech-update", 3, status="started", role="assistant"),
        message("hang", 30),
        message("status-update", 60, status="ended", endedReason="customer-ended-call"),
        message(
            "end-of-call-report",
            62,
            endedReason="customer-ended-call",
            startedAt=at(2).isoformat(),
            endedAt=at(60).isoformat(),
            cost=0.12,
            costBreakdown={"llm": 0.04, "tts": 0.08, "total": 0.12},
            artifact={"messages": said, "recordingUrl": "https://vapi.test/1.wav"},
            analysis={"summary": "A greeting.", "successEvaluation": "true"},
        ),
    ]


def retell(sid: str) -> Bodies:
    start: dict[str, Any] = {
        "call_id": sid,
        "agent_id": "a-1",
        "from_number": FROM,
        "to_number": TO,
        "direction": "inbound",
    }
    start |= {"call_status": "ongoing", "start_timestamp": int(at(0).timestamp() * 1000)}
    said = [
        {"role": "agent", "content": "Hello?", "words": [{"word": "Hello?", "start": 0.5, "end": 1.0}]},
        {"role": "user", "content": "Good day.", "words": [{"word": "Good", "start": 2.0, "end": 2.5}]},
    ]
    end = start | {
        "call_status": "ended",
        "end_timestamp": int(at(60).timestamp() * 1000),
        "duration_ms": 60_000,
        "disconnection_reason": "user_hangup",
        "transcript_object": said,
        "transcript": "Agent: Hello?\nUser: Good day.",
        "call_cost": {"combined_cost": 12.5, "product_costs": [{"product": "elevenlabs_tts", "cost": 12.5}]},
    }
    # The price is settled after the call.
    settled = {"call_cost": {"combined_cost": 13.5, "product_costs": [{"product": "elevenlabs_tts", "cost": 13.5}]}}
    analysis = {"call_analysis": {"call_summary": "A greeting.", "user_sentiment": "Neutral", "call_successful": True}}
    return [
        {"event": "call_started", "call": start},
        {"event": "call_ended", "call": end},
        {"event": "call_analyzed", "call": end | settled | analysis | {"recording_url": "https://retell.test/1.wav"}},
    ]


def elevenlabs(sid: str) -> Bodies:
    said = [
        {"role": "agent", "message": "Hello?", "time_in_call_secs": 0},
        {"role": "user", "message": "Good day.", "time_in_call_secs": 3},
    ]
    metadata: dict[str, Any] = {"start_time_unix_secs": int(START.timestamp()), "call_duration_secs": 60, "cost": 100}
    data = {"agent_id": "a-1", "conversation_id": sid, "status": "done", "transcript": said, "metadata": metadata}
    analysis = {"call_successful": "success", "transcript_summary": "A greeting."}
    stamp = int(at(70).timestamp())
    return [
        {"type": "post_call_transcription", "event_timestamp": stamp, "data": data | {"analysis": analysis}},
        {"type": "post_call_audio", "event_timestamp": stamp, "data": {"conversation_id": sid, "full_audio": "SUQz"}},
    ]


def standard(sid: str) -> Bodies:
    start = {"call_sid": sid, "provider": "telnyx", "from_number": FROM, "started_at": at(0).isoformat()}
    message = {"role": "user", "content": "Good day.", "timestamp": at(5).isoformat()}
    return [
        {"type": "call.updated", "timestamp": at(0).isoformat(), "data": start | {"status": "ringing"}},
        {"type": "call.updated", "timestamp": at(5).isoformat(), "data": start | {"message:1": message}},
        {"type": "call.ended", "timestamp": at(60).isoformat(), "data": start | {"status": "completed", "leg": "b"}},
    ]


PROVIDERS: dict[str, Callable[[str], Bodies]] = {
    "twilio": twilio,
    "exotel": exotel,
    "livekit": livekit,
    "plivo": plivo,
    "vapi": vapi,
    "retell": retell,
    "elevenlabs": elevenlabs,
    "standard": standard,
}
# When it was archived, in how many drains, and under which name.
NOT_COMPARED = ("id", "session_id", "call_sid", "drains", "first_archived_at", "archived_at", "content_digest")
TABLES = (
    "call_sessions",
    "call_transcripts",
    "call_messages",
    "call_transitions",
    "call_metrics",
    "call_tool_calls",
    "call_participants",
    "call_cost_events",
    "call_recordings",
    "call_cost_breakdowns",
    "call_analysis",
    "call_events",
)


async def archive_of(bridge: Any, sid: str) -> dict[str, list[str]]:
    """All that is archived of a call, its own name left out."""
    found = {}
    for table in TABLES:
        column = "id" if table == "call_sessions" else "session_id"
        rows = await bridge.rows(f"SELECT * FROM {table} WHERE {column} = session_id_of(%s)", sid)
        # What is kept whole has the call's name in it, and so in its id.
        left_out = (*NOT_COMPARED, *(("event_id", "sequence") if table == "call_events" else ()))
        plain = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
        found[table] = sorted(json.dumps(row, default=str, sort_keys=True).replace(sid, "SID") for row in plain)
    return found


def differences(found: dict[str, list[str]], expected: dict[str, list[str]]) -> list[object]:
    """What is not the same, as short as it can be said."""
    told: list[object] = []
    for table, rows in expected.items():
        if len(rows) != len(found[table]):
            told.append((table, found[table], rows))
        for one, other in zip(map(json.loads, found[table]), map(json.loads, rows), strict=False):
            told += [(table, name, one[name], value) for name, value in other.items() if one[name] != value]
    return told


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_any_order_makes_the_same_archive(
    provider: str, bridge: Any, redis_url: str, serve: Callable[..., Any]
) -> None:
    served, rng = serve(redis_url), random.Random(provider)
    sids = [f"{provider}-{number:03}" for number in range(ORDERS)]
    rounds: list[Bodies] = [[], [], [], []]
    for number, sid in enumerate(sids):
        bodies = PROVIDERS[provider](sid)
        if number:
            bodies += rng.choices(bodies, k=rng.randint(0, len(bodies)))
            rng.shuffle(bodies)
        # The first is as it should be; of the others some are all in time and some all late.
        last = rng.randint(1, len(rounds)) if number else 1
        for body in bodies:
            rounds[rng.randrange(last)].append(body)
    for bodies in rounds:
        with ThreadPoolExecutor(1 if bodies is rounds[0] else 4) as threads:
            answers = list(threads.map(lambda body: served.call(provider, body).status_code, bodies))
        assert set(answers) <= {200}
        await bridge.drain()
        await bridge.bridge.sweeper.sweep(limit=10_000)
        await bridge.drain()
    expected = await archive_of(bridge, sids[0])
    [row] = expected["call_sessions"]
    assert json.loads(row)["status"] == "completed"
    assert json.loads(row)["started_at"]
    for sid in sids[1:]:
        assert differences(await archive_of(bridge, sid), expected) == [], sid
    assert [await bridge.is_gone(sid) for sid in sids] == [True] * ORDERS
    assert await bridge.rows("SELECT * FROM call_session_rejects") == []
    assert await bridge.rows("SELECT count(*) AS calls FROM call_sids") == [{"calls": ORDERS}]
