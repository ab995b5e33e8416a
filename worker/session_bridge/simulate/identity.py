"""Who calls whom: the names that a provider gives to a call and all that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from uuid import UUID

from pydantic import JsonValue

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
PROVIDERS = ("twilio", "livekit", "exotel", "plivo")


@dataclass(frozen=True, slots=True)
class Identity:
    """A call's names: its SID, that of its recording, and the state fields it begins with."""

    call_sid: str
    recording_sid: str
    caller: str
    state: dict[str, JsonValue]


def draw_identity(ids: Random, provider: str, direction: str) -> Identity:
    """A new call of this provider, with a SID of the form that the provider uses."""
    # Numbers that are set aside for fiction, so that nobody's own is ever shown.
    caller, agent = f"+1202555{ids.randrange(100, 200):04}", f"+447700900{ids.randrange(1000):03}"
    from_number, to_number = (caller, agent) if direction == "inbound" else (agent, caller)
    state: dict[str, JsonValue] = {
        "provider": provider,
        "direction": direction,
        "channel": "phone",
        "from_number": from_number,
        "to_number": to_number,
    }
    recording_sid = f"RE{_hex(ids)}"
    if provider == "twilio":
        call_sid = f"CA{_hex(ids)}"
        state |= {"account_sid": f"AC{_hex(ids)}", "stream_sid": f"MZ{_hex(ids)}"}
    elif provider == "livekit":
        call_sid, recording_sid = f"RM_{_short(ids)}", f"EG_{_short(ids)}"
        state |= {"room_name": f"desk-{ids.randrange(10_000):04}", "channel": ids.choice(("web", "sip"))}
    elif provider == "exotel":
        call_sid = _hex(ids)
        state["stream_sid"] = _hex(ids)
    else:
        call_sid = str(UUID(int=ids.getrandbits(128), version=4))
        state["stream_sid"] = str(UUID(int=ids.getrandbits(128), version=4))
    return Identity(call_sid, recording_sid, caller, state)


def _hex(ids: Random) -> str:
    return f"{ids.getrandbits(128):032x}"


def _short(ids: Random) -> str:
    return "".join(ids.choices(_LETTERS, k=12))
