"""What a provider's callback says of a call."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class News:
    """What one callback tells of one call: fields of its live session, and whether the call is over.

    `fields` are named and written as the contract has them (state, documents and `<family>:<event_id>`), each value the
    text that HSET takes. An event's id comes from the provider or from the event's content, so that a callback that is
    repeated writes the same fields again. `reason` is the `finalize_reason` if `ended`.
    """

    call_sid: str
    fields: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reason: str = ""
