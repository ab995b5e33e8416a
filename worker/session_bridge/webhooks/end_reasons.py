"""What each provider calls the end of a call, in the one vocabulary of `contract.vocabulary.EndReason`.

Each table names its source. A word that no table has is `unknown`, and is kept as it came in `end_reason_raw`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from session_bridge.contract.vocabulary import EndReason, end_reason_of


@dataclass(frozen=True, slots=True)
class _Table:
    """Words, and patterns for the words of which a provider has too many to list; a word goes before a pattern."""

    words: Mapping[EndReason, str]
    patterns: tuple[tuple[EndReason, str], ...] = ()

    def meanings(self) -> dict[str, EndReason]:
        return {word: reason for reason, words in self.words.items() for word in words.split()}


# https://docs.vapi.ai/calls/call-ended-reason, and the 627 literals of `endedReason` in the OpenAPI document of
# github.com/VapiAI/docs (commit eabfa530). Not in here on purpose, as they do not say who ended the call: `hangup`,
# `vonage-completed`, `call.in-progress.twilio-completed-call`, `….sip-completed-call`, `….hook-executed-say`.
_VAPI = _Table(
    {
        EndReason.CALLER_HANGUP: "customer-ended-call customer-ended-call-before-warm-transfer "
        "customer-ended-call-after-warm-transfer-attempt customer-ended-call-during-transfer "
        "call.ringing.sip-inbound-caller-hungup-before-call-connect",
        EndReason.AGENT_HANGUP: "assistant-ended-call assistant-ended-call-with-hangup-task "
        "assistant-ended-call-after-message-spoken assistant-said-end-call-phrase",
        # The call ended in a transfer, also where nobody took it at the other end.
        EndReason.TRANSFER: "assistant-forwarded-call call.forwarding.operator-busy call.forwarding.no-answer "
        "call.ringing.hook-executed-transfer call.ending.hook-executed-transfer "
        "assistant-request-returned-forwarding-phone-number",
        EndReason.VOICEMAIL: "voicemail",
        EndReason.NO_ANSWER: "customer-did-not-answer "
        "call.in-progress.error-providerfault-outbound-sip-480-temporarily-unavailable",
        EndReason.BUSY: "customer-busy",
        EndReason.CANCELED: "manually-canceled call-deleted scheduled-call-deleted "
        "call.in-progress.error-warm-transfer-assistant-cancelled",
        EndReason.TIMEOUT: "silence-timed-out exceeded-max-duration "
        "call.in-progress.error-warm-transfer-max-duration call.in-progress.error-warm-transfer-silence-timeout "
        "call.in-progress.error-warm-transfer-microphone-timeout",
        EndReason.FAILED: "customer-did-not-give-microphone-permission twilio-failed-to-connect-call "
        "twilio-reported-customer-misdialed vonage-failed-to-connect-call vonage-rejected "
        "phone-call-provider-bypass-enabled-but-no-call-received",
        EndReason.ERROR: "assistant-join-timed-out assistant-error worker-shutdown vonage-disconnected "
        "phone-call-provider-closed-websocket db-error no-server-available license-check-failed",
    },
    (
        # It never began.
        (EndReason.FAILED, r"call\.start\..*|call-start-error-.*|assistant-request-.*|assistant-not-.*"),
        (EndReason.FAILED, r".*transport-never-connected|.*-sip-(in|out)bound-call-failed-to-connect"),
        (EndReason.FAILED, r".*error-providerfault-outbound-sip-.*"),
        (EndReason.ERROR, r"pipeline-error-.*|pipeline-no-.*|call\.(in-progress|ringing|ending)\.error-.*"),
    ),
)

# https://docs.retellai.com/reliability/debug-call-disconnect, and `disconnection_reason` in
# github.com/RetellAI/retell-python-sdk, types/phone_call_response.py (commit 06c661d0).
_RETELL = _Table(
    {
        EndReason.CALLER_HANGUP: "user_hangup",
        # An agent that is set to hang up on a phone menu has hung up.
        EndReason.AGENT_HANGUP: "agent_hangup ivr_reached scam_detected",
        EndReason.TRANSFER: "call_transfer transfer_bridged",
        EndReason.VOICEMAIL: "voicemail_reached",
        EndReason.NO_ANSWER: "dial_no_answer",
        EndReason.BUSY: "dial_busy user_declined",
        EndReason.CANCELED: "manual_stopped transfer_cancelled",
        EndReason.TIMEOUT: "inactivity max_duration_reached registered_call_timeout",
        EndReason.FAILED: "dial_failed invalid_destination telephony_provider_permission_denied "
        "telephony_provider_unavailable sip_routing_error marked_as_spam concurrency_limit_reached no_valid_payment "
        "error_user_not_joined",
    },
    ((EndReason.ERROR, r"error_.*"),),
)

# `metadata.termination_reason` is a sentence, and https://elevenlabs.io/docs lists none: these patterns go by the words
# that such a sentence would have, and one that has none of them stays what it is, in `end_reason_raw`.
# `call_initiation_failure` has `failure_reason`: busy, no-answer, unknown
# (https://elevenlabs.io/docs/eleven-agents/workflows/post-call-webhooks).
_ELEVENLABS = _Table(
    {EndReason.BUSY: "busy", EndReason.NO_ANSWER: "no-answer"},
    (
        (EndReason.VOICEMAIL, r".*\bvoice_?mail.*"),
        (EndReason.TRANSFER, r".*\btransfer_to_(number|agent)\b.*|call transferred.*"),
        (EndReason.AGENT_HANGUP, r".*\bend_call\b.*|agent ended.*|call ended by agent.*"),
        (EndReason.TIMEOUT, r".*\b(max(imum)? (call |conversation )?duration|silence|inactivity|timed? ?out)\b.*"),
        (
            EndReason.CALLER_HANGUP,
            r"(client|user|caller) (disconnected|ended|hung up).*|.*\bended by (client|user)\b.*",
        ),
        (EndReason.CALLER_HANGUP, r"call ended by remote party.*|remote party (ended|hung up).*"),
        (EndReason.ERROR, r".*\b(error|exception|failed)\b.*"),
    ),
)

# `CloseReason` in livekit-agents 1.8 (voice/events.py; a report has it as `CR_…`), and `DisconnectReason` in
# github.com/livekit/protocol, livekit_models.proto. Not in here, as they do not say why: job_shutdown, room_deleted,
# room_closed, participant_removed.
_LIVEKIT = _Table(
    {
        EndReason.CALLER_HANGUP: "participant_disconnected cr_participant_disconnected client_initiated",
        # The user of a session is the program that closed it.
        EndReason.AGENT_HANGUP: "user_initiated cr_user_initiated task_completed cr_task_completed cr_completed",
        EndReason.BUSY: "user_rejected",
        EndReason.NO_ANSWER: "user_unavailable",
        EndReason.FAILED: "sip_trunk_failure join_failure",
        EndReason.ERROR: "error cr_error connection_timeout media_failure state_mismatch signal_close agent_error "
        "server_shutdown",
    },
)

_TABLES = {"vapi": _VAPI, "retell": _RETELL, "elevenlabs": _ELEVENLABS, "livekit": _LIVEKIT}
_WORDS = {provider: table.meanings() for provider, table in _TABLES.items()}
_PATTERNS = {
    provider: [(reason, re.compile(pattern, re.DOTALL)) for reason, pattern in table.patterns]
    for provider, table in _TABLES.items()
}


def end_reason(provider: str, word: str) -> EndReason:
    """What `provider` means by `word`; of a provider without a table, what the word means to everybody."""
    if provider not in _TABLES:
        return end_reason_of(word)
    word = word.strip().lower()
    if word in _WORDS[provider]:
        return _WORDS[provider][word]
    return next((reason for reason, pattern in _PATTERNS[provider] if pattern.fullmatch(word)), EndReason.UNKNOWN)


def end_fields(provider: str, word: str) -> dict[str, str]:
    """The state fields that say why a call ended: the reason, and the provider's own word for it."""
    return {"end_reason": end_reason(provider, word).value, "end_reason_raw": word}
