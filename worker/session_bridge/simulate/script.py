"""Makes whole calls up from a seed."""

from __future__ import annotations

from random import Random

from pydantic import JsonValue

from session_bridge.contract.fields import Family
from session_bridge.simulate.bookings import CLINIC_APPOINTMENT, RESTAURANT_BOOKING
from session_bridge.simulate.call import Change, Ending, Event, SimulatedCall
from session_bridge.simulate.conversation import LLM_MODEL, STT_MODEL, TTS_MODEL, Conversation
from session_bridge.simulate.identity import PROVIDERS, Identity, draw_identity
from session_bridge.simulate.other_languages import PARCEL_HINDI, WIZYTA
from session_bridge.simulate.scenario import Scenario
from session_bridge.simulate.services import BROADBAND_OFFER, DELIVERY_QUESTION

SCENARIOS = (RESTAURANT_BOOKING, CLINIC_APPOINTMENT, DELIVERY_QUESTION, BROADBAND_OFFER, WIZYTA, PARCEL_HINDI)

_SCENARIO_WEIGHTS = (4, 3, 3, 3, 2, 2)
_ENDING_WEIGHTS = {Ending.STOP: 10, Ending.DISCONNECT: 3, Ending.WEBHOOK: 4, Ending.LATE: 3}


def script(seed: int | str | Random, *, ids: Random | None = None) -> SimulatedCall:
    """A call: the same one for the same seed.

    `ids` draws the names of the call and of its recording, where a conversation is to be played again as a call of its
    own; without it they come from the seed too.
    """
    random = seed if isinstance(seed, Random) else Random(seed)
    (scenario,) = random.choices(SCENARIOS, _SCENARIO_WEIGHTS)
    (ending,) = random.choices(list(_ENDING_WEIGHTS), list(_ENDING_WEIGHTS.values()))
    conversation = Conversation(random, scenario)
    conversation.act()
    end_reason = random.choice(("caller_hangup", "agent_hangup"))
    tenant = random.choice(("north", "harbour", "hill"))
    provider = random.choice(PROVIDERS)
    breaks_at = random.uniform(0.55, 0.9)
    identity = draw_identity(ids or random, provider, scenario.direction)

    begun = _beginning(scenario, identity)
    if ending is Ending.DISCONNECT:
        end_ms = round(conversation.ms * breaks_at)
        steps = [*begun, *(step for step in conversation.steps if step.at_ms < end_ms)]
    else:
        end_ms = conversation.ms
        steps = [
            *begun,
            *conversation.steps,
            *_closing(conversation, scenario, identity, recorded=ending is Ending.STOP),
        ]
    late: dict[str, JsonValue] = {}
    if ending in (Ending.LATE, Ending.WEBHOOK):
        late = {**_link(identity), "recording_duration_seconds": round(end_ms / 1000, 1)}
    return SimulatedCall(
        call_sid=identity.call_sid,
        scenario=scenario.name,
        language=scenario.language,
        ending=ending,
        end_reason=end_reason,
        duration_ms=end_ms,
        state=_state(scenario, identity, tenant),
        steps=tuple(steps),
        late=late,
    )


def _state(scenario: Scenario, identity: Identity, tenant: str) -> dict[str, JsonValue]:
    return {
        **identity.state,
        "status": "in_progress",
        "tenant_id": tenant,
        "agent_id": f"agent-{scenario.name.replace(' ', '-')}-{scenario.language}",
        "agent_name": scenario.agent_name,
        "agent_version": "3.2",
        "language": scenario.language,
        "initial_node": scenario.stages[0].node_id,
        "metadata": {"simulated": True, "scenario": scenario.name},
    }


def _participants(scenario: Scenario, identity: Identity) -> tuple[tuple[str, dict[str, JsonValue]], ...]:
    agent = f"agent-{scenario.agent_name}"
    return (
        ("caller", {"identity": identity.caller, "participant_type": "user", "is_muted": False}),
        ("agent", {"identity": agent, "participant_type": "agent", "name": scenario.agent_name, "is_muted": False}),
    )


def _beginning(scenario: Scenario, identity: Identity) -> list[Event | Change]:
    joined = [
        Event(0, Family.PARTICIPANT, data, {"joined_at": 0}, event_id)
        for event_id, data in _participants(scenario, identity)
    ]
    recording: dict[str, JsonValue] = {"recording_sid": identity.recording_sid, "status": "in-progress", "channels": 2}
    return [*joined, Event(0, Family.RECORDING, recording, event_id=identity.recording_sid)]


def _closing(
    conversation: Conversation, scenario: Scenario, identity: Identity, *, recorded: bool
) -> list[Event | Change]:
    end_ms = conversation.ms
    summary = conversation.fill(scenario.summary)
    collected = conversation.collected | {name: conversation.fill(text) for name, text in scenario.follow_up.items()}
    persuaded = not conversation.objections
    steps: list[Event | Change] = [
        Event(end_ms, Family.PARTICIPANT, data, {"joined_at": 0, "left_at": end_ms}, event_id)
        for event_id, data in _participants(scenario, identity)
    ]
    if recorded:
        facts: dict[str, JsonValue] = {
            **_link(identity),
            "status": "completed",
            "channels": 2,
            "duration_seconds": round(end_ms / 1000, 1),
        }
        steps.append(Event(end_ms, Family.RECORDING, facts, event_id=identity.recording_sid))
    steps += _costs(conversation)
    closing: dict[str, JsonValue] = {
        "conversation_stage": scenario.last_stage,
        "final_node": conversation.final_node,
        "collected_data": collected,
        "summary": summary,
        "analysis": {
            "sentiment": "positive" if persuaded else "neutral",
            "sentiment_score": 0.6 if persuaded else 0.1,
            "topics": [*scenario.topics],
            "keywords": [*sorted(str(value) for value in collected.values())],
            "success": True,
            "summary": summary,
        },
    }
    return [*steps, Change(end_ms, closing)]


def _costs(conversation: Conversation) -> list[Event | Change]:
    minutes = conversation.ms / 60_000
    heard = conversation.words_heard / 2.6
    charges: tuple[tuple[JsonValue, ...], ...] = (
        ("telephony", round(minutes, 3), "minute", 0.85, None),
        ("stt", round(heard, 1), "second", 0.007, STT_MODEL),
        ("llm", conversation.tokens, "token", 0.00006, LLM_MODEL),
        ("tts", conversation.characters, "character", 0.0015, TTS_MODEL),
    )
    names = ("service", "usage", "unit", "unit_price_cents", "model")
    return [
        Event(conversation.ms, Family.COST, {**dict(zip(names, charge, strict=True)), "currency": "USD"})
        for charge in charges
    ]


def _link(identity: Identity) -> dict[str, JsonValue]:
    # A name that no server will ever have.
    url = f"https://recordings.example/{identity.recording_sid}.wav"
    return {"recording_sid": identity.recording_sid, "recording_url": url}
