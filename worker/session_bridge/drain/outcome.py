"""What came of a call, in one word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from pydantic import JsonValue

from session_bridge.contract.vocabulary import Status
from session_bridge.functions import load_function


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What an outcome is decided from."""

    status: str
    end_reason: str | None
    conversation_stage: str | None
    final_node: str | None
    handoff_status: str | None
    payment_status: str | None
    collected_data: Mapping[str, JsonValue]
    objections_encountered: list[JsonValue]
    analysis: Mapping[str, JsonValue]
    total_user_messages: int
    total_messages: int


OutcomeFunction: TypeAlias = Callable[[CallFacts], str | None]

_UNREACHED = {Status.BUSY: "busy", Status.NO_ANSWER: "no_answer", Status.CANCELED: "canceled"}
_CLOSED_STAGES = frozenset(("closed", "closing", "completed", "success", "booked", "confirmed", "sold", "paid"))
_PAID = frozenset(("paid", "succeeded", "success", "completed", "captured"))


def default_outcome(facts: CallFacts) -> str | None:
    """The outcome of a call whose writer named none.

    In this order: not reached, lost on the way, a hand-over to a person, what an analysis said, a payment, a
    conversation that came to its end, objections that stood in its way, data that was collected, a conversation, or
    nobody there. None while the call lives, and for one that was lost.
    """
    status = facts.status
    if status in (Status.INITIATED, Status.RINGING, Status.IN_PROGRESS, Status.LOST):
        return None
    if status in _UNREACHED:
        return _UNREACHED[Status(status)]
    if status == Status.FAILED or facts.end_reason == "error":
        return "failed"
    if facts.end_reason == "voicemail":
        return "voicemail"
    if facts.handoff_status or facts.end_reason == "transfer":
        return "transferred"
    success = facts.analysis.get("success")
    if isinstance(success, bool):
        return "success" if success else "not_successful"
    if (facts.payment_status or "").lower() in _PAID or (facts.conversation_stage or "").lower() in _CLOSED_STAGES:
        return "success"
    if facts.objections_encountered:
        return "objection"
    if facts.collected_data:
        return "data_collected"
    if facts.total_user_messages:
        return "conversation"
    return "no_conversation"


def load_outcome(name: str) -> OutcomeFunction:
    """The function that `module:function` names; '' is the default. Raises SettingsError if there is none."""
    if not name:
        return default_outcome
    return cast("OutcomeFunction", load_function("SESSION_BRIDGE_OUTCOME", name))
