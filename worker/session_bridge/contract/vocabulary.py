"""The words in which a call's status and end are kept, and every other word we know for them."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """Where a call stands."""

    INITIATED = "initiated"
    RINGING = "ringing"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    CANCELED = "canceled"
    ABANDONED = "abandoned"
    LOST = "lost"


TERMINAL = frozenset((Status.COMPLETED, Status.FAILED, Status.BUSY, Status.NO_ANSWER, Status.CANCELED))
"""Statuses that never go back."""

PROVISIONAL = frozenset((Status.ABANDONED, Status.LOST))
"""Ends that we inferred from silence or absence: a later sign of life takes them back."""

_STATUS_WORDS = {
    Status.INITIATED: "initiated queued new created pending scheduled dialing registered starting",
    Status.RINGING: "ringing ring alerting early_media",
    Status.IN_PROGRESS: "in_progress inprogress active answered connected live ongoing bridged started talking resumed",
    Status.COMPLETED: "completed complete ended finished done hangup hung_up disconnected closed success successful "
    "stopped terminated finalized",
    Status.FAILED: "failed failure error errored crashed rejected invalid",
    Status.BUSY: "busy user_busy",
    Status.NO_ANSWER: "no_answer noanswer unanswered missed not_answered",
    Status.CANCELED: "canceled cancelled cancel aborted",
    Status.ABANDONED: "abandoned",
    Status.LOST: "lost",
}
_STATUSES = {word: status for status, words in _STATUS_WORDS.items() for word in words.split()}


class EndReason(StrEnum):
    """Why a call ended."""

    CALLER_HANGUP = "caller_hangup"
    AGENT_HANGUP = "agent_hangup"
    TRANSFER = "transfer"
    VOICEMAIL = "voicemail"
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    ERROR = "error"
    ABANDONED = "abandoned"
    UNKNOWN = "unknown"


_END_REASON_WORDS = {
    EndReason.CALLER_HANGUP: "caller_hangup user_hangup customer_hangup customer_ended_call client_hangup "
    "caller_hung_up user_ended participant_disconnected remote_hangup client_initiated",
    EndReason.AGENT_HANGUP: "agent_hangup assistant_hangup bot_hangup assistant_ended_call agent_ended user_initiated "
    "task_completed end_call completed",
    EndReason.TRANSFER: "transfer transferred call_transfer assistant_forwarded_call handoff agent_transfer",
    EndReason.VOICEMAIL: "voicemail voicemail_reached machine_detected answering_machine",
    EndReason.NO_ANSWER: "no_answer dial_no_answer customer_did_not_answer noanswer",
    EndReason.BUSY: "busy dial_busy customer_busy user_busy",
    EndReason.FAILED: "failed dial_failed call_failed",
    EndReason.CANCELED: "canceled cancelled",
    EndReason.TIMEOUT: "timeout silence_timed_out inactivity max_duration_reached exceeded_max_duration idle_timeout",
    EndReason.ERROR: "error pipeline_error llm_error exception crash",
    EndReason.ABANDONED: "abandoned",
    EndReason.UNKNOWN: "unknown",
}
_END_REASONS = {word: reason for reason, words in _END_REASON_WORDS.items() for word in words.split()}


def status_of(word: str) -> Status | None:
    """The status that a writer's or provider's `word` means, in any case, with dashes, blanks or underscores."""
    return _STATUSES.get(_plain(word))


def words_for(status: Status) -> list[str]:
    """The words that mean this status, as they are compared: in small letters, with underscores."""
    return _STATUS_WORDS[status].split()


def end_reason_of(word: str) -> EndReason:
    """The end reason that `word` means; `unknown` for words not in the table."""
    return _END_REASONS.get(_plain(word), EndReason.UNKNOWN)


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")


class MetricType(StrEnum):
    """The measurements agents report; others are kept under the name they came with."""

    STT_DELAY = "stt_delay"
    USER_TO_BOT_LATENCY = "user_to_bot_latency"
    TRANSCRIPT_LLM_GAP = "transcript_llm_gap"
    RAG_PROCESSING_TIME = "rag_processing_time"
    VARIABLE_EXTRACTION_TIME = "variable_extraction_time"
    LLM_TTFB = "llm_ttfb"
    LLM_PROCESSING_TIME = "llm_processing_time"
    LLM_TO_TTS_GAP = "llm_to_tts_gap"
    TOTAL_PIPELINE_TIME = "total_pipeline_time"
    LLM_PROMPT_TOKENS = "llm_prompt_tokens"
    LLM_COMPLETION_TOKENS = "llm_completion_tokens"
    TTS_CHARACTERS = "tts_characters"
    END_OF_TURN_DELAY = "end_of_turn_delay"
    TRANSCRIPTION_DELAY = "transcription_delay"
    TTS_TTFB = "tts_ttfb"
    E2E_LATENCY = "e2e_latency"
    LLM_CACHED_PROMPT_TOKENS = "llm_cached_prompt_tokens"
    STT_AUDIO_SECONDS = "stt_audio_seconds"
    TTS_AUDIO_SECONDS = "tts_audio_seconds"


LATENCY_TYPES = frozenset(
    (
        MetricType.STT_DELAY,
        MetricType.USER_TO_BOT_LATENCY,
        MetricType.TRANSCRIPT_LLM_GAP,
        MetricType.RAG_PROCESSING_TIME,
        MetricType.VARIABLE_EXTRACTION_TIME,
        MetricType.LLM_TTFB,
        MetricType.LLM_PROCESSING_TIME,
        MetricType.LLM_TO_TTS_GAP,
        MetricType.TOTAL_PIPELINE_TIME,
        MetricType.END_OF_TURN_DELAY,
        MetricType.TRANSCRIPTION_DELAY,
        MetricType.TTS_TTFB,
        MetricType.E2E_LATENCY,
    )
)
"""Measurements of time: kept in milliseconds, whatever unit they came in."""
