"""What the bridge would make of a live session; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from session_bridge.archive.tables import Cell, Row, Table
from session_bridge.contract.ids import now
from session_bridge.drain.call import Reject
from session_bridge.drain.combine import combine
from session_bridge.drain.outcome import OutcomeFunction
from session_bridge.drain.shape import Identity, shape
from session_bridge.drain.understand import Understanding

_NOBODY = str(UUID(int=0))


@dataclass(frozen=True, slots=True)
class Preview:
    """The row of `call_sessions`, the children's rows by table, and what was not understood."""

    session: dict[str, Cell]
    rows: dict[Table, list[Row]]
    rejects: list[Reject]


def preview(
    call_sid: str,
    fields: Mapping[bytes, bytes],
    understanding: Understanding,
    outcome: OutcomeFunction,
    *,
    max_field_bytes: int,
    requested: bool = True,
    moment: datetime | None = None,
) -> Preview:
    """The rows and rejects that a first drain of these fields would write."""
    fitting = {name: value for name, value in fields.items() if len(value) <= max_field_bytes}
    oversize = {name: len(value) for name, value in fields.items() if len(value) > max_field_bytes}
    call = combine(None, understanding.call(call_sid, fitting, oversize), requested=requested)
    tenant_id = call.state.get("tenant_id")
    at = moment or now()
    identity = Identity(_NOBODY, 1, tenant_id if isinstance(tenant_id, str) else None, 1, at, at)
    shaped = shape(call, identity, understanding, outcome)
    return Preview(shaped.session, shaped.rows, call.rejects)
