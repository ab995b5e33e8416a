"""Whatever comes to an endpoint, signed or not, is answered, and with no 5xx: that one is for Redis alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PATHS = ("twilio", "exotel/guess", "livekit", "plivo", "vapi", "retell", "elevenlabs", "standard", "live", "ready")
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.sampled_from(
        ["completed", "in-progress", "2026-11-21T10:00:00Z", "1e400", "-1", "0", "null", "\ud800", "\x00", "9" * 400]
    )
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)

FORM_NAMES = [
    "CallStatus",
    "SequenceNumber",
    "Timestamp",
    "CallDuration",
    "RecordingSid",
    "RecordingStatus",
    "RecordingUrl",
    "RecordingDuration",
    "From",
    "RecordingStartTime",
    "Status",
    "EventType",
    "DateUpdated",
    "StartTime",
    "EndTime",
    "Event",
    "TotalCost",
    "RecordUrl",
    "RecordingDurationMs",
    "RecordingStartMs",
    "AnswerTime",
    "Direction",
    "Legs[0][Status]",
    "Legs[1][x]",
    "Legs[",
    "Legs",
    "Legs[9999][y]",
    "status",
]
form_text = st.text(max_size=30).filter(lambda text: text.isprintable()) | st.sampled_from(
    [
        "completed",
        "ringing",
        "Fri, 20 Nov 2026 09:59:00 +0000",
        "2026-11-21 10:00:00",
        "nan",
        "inf",
        "1e300",
        "terminal",
    ]
)
forms = st.dictionaries(st.sampled_from(FORM_NAMES) | form_text, form_text, max_size=8)


def shaped(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects in which these names are likely."""
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=8), anything, max_size=8)


CALL = "start_timestamp end_timestamp call_status transcript_object transcript_with_tool_calls call_cost latency"
BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "twilio": st.builds(lambda more: {"CallSid": "CA1"} | more, forms),
    "exotel": st.builds(lambda more: {"CallSid": "e1"} | more, forms | shaped(*FORM_NAMES)),
    "plivo": st.builds(lambda more: {"CallUUID": "p1"} | more, forms),
    "livekit": st.builds(
        lambda event, room, participant, egress, more: (
            more | {"event": event, "room": {"sid": "RM_1"} | room, "participant": participant, "egressInfo": egress}
        ),
        st.sampled_from(
            ["room_started", "room_finished", "participant_joined", "participant_left", "egress_ended", "new", ""]
        ),
        shaped("creationTime", "creationTimeMs", "name"),
        shaped("sid", "identity", "kind", "attributes", "joinedAt", "joinedAtMs", "disconnectReason"),
        shaped("egressId", "roomId", "fileResults", "file", "startedAt", "status"),
        shaped("createdAt", "chat_history", "room_id", "timestamp", "duration"),
    ),
    "vapi": st.builds(
        lambda kind, call, more, artifact: {
            "message": more | {"type": kind, "call": {"id": "v1"} | call, "artifact": artifact}
        },
        st.sampled_from(["end-of-call-report", "status-update", "hang", "transcript[transcriptType='final']"]),
        shaped("type", "orgId"),
        shaped("timestamp", "endedAt", "endedReason", "costBreakdown", "costs", "analysis", "status"),
        shaped("messages", "recording", "nodes", "transfers", "performanceMetrics"),
    ),
    "retell": st.builds(
        lambda event, more: {"event": event, "call": {"call_id": "r1"} | more},
        st.sampled_from(["call_started", "call_ended", "call_analyzed", "other"]),
        shaped(*CALL.split(), "call_analysis"),
    ),
    "elevenlabs": st.builds(
        lambda kind, more, metadata: {"type": kind, "data": {"conversation_id": "l1", "metadata": metadata} | more},
        st.sampled_from(["post_call_transcription", "post_call_audio", "call_initiation_failure", "other"]),
        shaped("transcript", "analysis", "status", "agent_id"),
        shaped("start_time_unix_secs", "call_duration_secs", "charging", "cost", "phone_call", "termination_reason"),
    ),
    "standard": st.builds(
        lambda more, kind, at: {"type": kind, "timestamp": at, "data": {"call_sid": "s1"} | more},
        shaped(
            "status",
            "message:1",
            "metadata",
            "started_at",
            "status_sequence",
            "last_activity_at",
            "provider",
            "tool:x:y",
        ),
        scalars,
        scalars,
    ),
}


@pytest.fixture
def served(serve: Callable[..., Any], redis_url: str) -> Any:
    return serve(redis_url)


@pytest.mark.parametrize("provider", BODIES)
def test_what_a_provider_signs_is_heard_or_refused_with_a_reason(
    served: Any, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answers: set[int] = set()

    @QUICK
    @given(BODIES[provider])
    def call(body: dict[str, Any]) -> None:
        answer = served.call(provider, body)
        assert answer.status_code in (200, 400), answer.text
        assert answer.status_code == 200 or answer.json()["error"]
        answers.add(answer.status_code)

    call()
    assert 200 in answers
    out, err = capfd.readouterr()
    # A bug of ours would be answered 503 too.
    assert "webhook.failed" not in out + err


@pytest.mark.parametrize("provider", BODIES)
async def test_what_was_heard_of_it_is_archived(served: Any, bridge: Any, provider: str) -> None:
    @QUICK
    @given(BODIES[provider])
    def call(body: dict[str, Any]) -> None:
        assert served.call(provider, body).status_code in (200, 400)

    call()
    sids = [key.decode().removeprefix("session:") for key in await bridge.redis.keys("session:*")]
    for sid in sids:
        await bridge.ask(sid)
    await bridge.drain()
    assert [await bridge.is_gone(sid) for sid in sids] == [True] * len(sids)
    assert await bridge.rows("SELECT call_sid FROM dead_sessions") == []


def test_what_nobody_signed_is_refused(served: Any, redis_url: str) -> None:
    import redis

    header = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
    names = st.sampled_from(
        [
            "x-twilio-signature",
            "authorization",
            "x-plivo-signature-v3",
            "x-plivo-signature-v3-nonce",
            "x-retell-signature",
            "webhook-id",
            "elevenlabs-signature",
            "webhook-signature",
            "webhook-timestamp",
            "x-vapi-secret",
            "content-type",
            "x-forwarded-for",
            "x-twilio-webhooks-signature-settings",
        ]
    )
    values = header | st.sampled_from(
        [
            "v=1,d=" + "0" * 64,
            "t=1,v0=0",
            "v1,AAAA",
            "a.b.c",
            "application/json",
            "nan",
            "1e999",
            "algorithm=NONE",
            "[::1",
        ]
    )
    contents = st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode())
    queries = st.sampled_from(["", "?bodySHA256=", "?a=%ff&a=1", "?" + "a&" * 1200])

    @settings(QUICK, max_examples=200)
    @given(
        st.sampled_from(PATHS),
        st.sampled_from(["POST", "GET", "PUT"]),
        st.dictionaries(names, values),
        contents,
        queries,
    )
    def call(path: str, method: str, headers: dict[str, str], content: bytes, query: str) -> None:
        request = httpx2.Request(method, f"{served.base}/{path}{query}", headers=headers, content=content)
        answer = served.http.send(request)
        expected = (200, 405) if path in ("live", "ready") else (403, 405)
        assert answer.status_code in expected, (path, answer.status_code)

    call()
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []
