"""What providers call the end of a call, and what we call it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from session_bridge.contract.vocabulary import EndReason
from session_bridge.webhooks.end_reasons import end_fields, end_reason

# Vapi's own words that do not say who or what ended the call.
VAPI_UNKNOWN = {
    "call.ending.hook-executed-say",
    "call.in-progress.sip-completed-call",
    "call.in-progress.twilio-completed-call",
    "call.ringing.hook-executed-say",
    "vonage-completed",
}


@pytest.mark.parametrize(
    ("provider", "word", "reason"),
    [
        ("vapi", "customer-ended-call", "caller_hangup"),
        ("vapi", "assistant-said-end-call-phrase", "agent_hangup"),
        ("vapi", "assistant-forwarded-call", "transfer"),
        ("vapi", "call.forwarding.operator-busy", "transfer"),
        ("vapi", "silence-timed-out", "timeout"),
        ("vapi", "call.start.error-get-assistant", "failed"),
        ("vapi", "call.in-progress.error-providerfault-outbound-sip-480-temporarily-unavailable", "no_answer"),
        ("vapi", "call.in-progress.error-providerfault-outbound-sip-403-forbidden", "failed"),
        ("vapi", "call.in-progress.error-vapifault-worker-died", "error"),
        ("vapi", "pipeline-error-of-a-vendor-to-come", "error"),
        ("vapi", "hangup", "unknown"),
        ("retell", "user_hangup", "caller_hangup"),
        ("retell", "user_declined", "busy"),
        ("retell", "inactivity", "timeout"),
        ("retell", "error_llm_websocket_open", "error"),
        ("retell", "error_user_not_joined", "failed"),
        ("retell", "something_new", "unknown"),
        ("elevenlabs", "end_call tool was called.", "agent_hangup"),
        ("elevenlabs", "Client disconnected: 1000", "caller_hangup"),
        ("elevenlabs", "Maximum duration exceeded", "timeout"),
        ("elevenlabs", "no-answer", "no_answer"),
        ("elevenlabs", "because", "unknown"),
        ("livekit", "participant_disconnected", "caller_hangup"),
        ("livekit", "CR_COMPLETED", "agent_hangup"),
        ("livekit", "job_shutdown", "unknown"),
        ("livekit", "SIP_TRUNK_FAILURE", "failed"),
        ("somebody", "no-answer", "no_answer"),
    ],
)
def test_a_providers_word_has_one_meaning(provider: str, word: str, reason: str) -> None:
    assert end_reason(provider, word) == reason
    assert end_fields(provider, word) == {"end_reason": reason, "end_reason_raw": word}


def test_every_word_of_vapi_means_something_but_these(shared_calls: Path) -> None:
    vectors = json.loads((shared_calls.parent / "vectors" / "vapi_server_messages.json").read_text(encoding="utf-8"))
    words = set(vectors["ended_reason_enum"])
    meanings = {word: end_reason("vapi", word) for word in words}
    assert {word for word, meaning in meanings.items() if meaning == "unknown"} == VAPI_UNKNOWN
    assert Counter(meanings.values())[EndReason.ERROR] > 400, "most of them are one vendor's error or another's"
    assert set(meanings.values()) >= {"caller_hangup", "agent_hangup", "transfer", "voicemail", "busy", "canceled"}
