"""Whatever a writer leaves in a live session, it is understood or it is a reject; nothing raises."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from session_bridge.contract.fields import ADOPTING_FIELDS, DOCUMENTS, STATE_FIELDS
from session_bridge.contract.models import MODELS
from session_bridge.drain.outcome import default_outcome
from session_bridge.drain.preview import Preview, preview
from session_bridge.drain.understand import Understanding

NOW = datetime(2026, 11, 21, tzinfo=UTC)
COLUMNS = sorted({"timestamp", "chunks", *(column for model in MODELS.values() for column in model.columns)})

odd_text = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "0", "-1", "1e400", "NaN", "Infinity", "-90000000000", "9" * 30, "1e-999999", "0001-01-01"]),
    st.sampled_from(["user", "agent", "s", "llm_ttfb", "user_to_bot_latency", "llm_prompt_tokens", "true", "\ud800"]),
)
number = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, 2**63, 1e308, -9e10, 1e13]))
plain = st.one_of(st.none(), st.booleans(), number, odd_text)
value = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3), max_leaves=5
)
event = st.dictionaries(st.one_of(st.sampled_from(COLUMNS), odd_text), value, max_size=6)
needed = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "Agent", "bot"]),
        "content": st.text(max_size=5),
        "metric_type": st.sampled_from(["llm_ttfb", "llm_prompt_tokens", "user_to_bot_latency", "mine"]),
        "value": number,
        "unit": st.sampled_from(["s", "ms", "", "fortnights"]),
        "to_node_id": odd_text,
        "query_text": odd_text,
        "name": odd_text,
        "identity": odd_text,
        "service": odd_text,
        "amount_cents": number,
        "recording_sid": odd_text,
        "interrupted_at_turn": number,
        "variables_requested": value,
        "variables_extracted": value,
    }
)
json_text = st.one_of(event, st.builds(lambda a, b: a | b, needed, event), value, st.lists(needed, max_size=2)).map(
    json.dumps
)
raw = st.one_of(
    json_text.map(str.encode), odd_text.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary()
)
name = st.one_of(
    st.sampled_from(sorted(STATE_FIELDS | DOCUMENTS | set(ADOPTING_FIELDS))).map(str.encode),
    st.builds(
        lambda family, event_id: f"{family}:{event_id}".encode("utf-8", "surrogatepass"),
        st.sampled_from([*MODELS, "dtmf", "sentiment"]),
        st.one_of(st.sampled_from(["1", "2", "01", "a"]), odd_text),
    ),
    st.binary(max_size=8),
)
session = st.dictionaries(name, raw, max_size=8)


def understood(fields: dict[bytes, bytes], **limits: Any) -> Preview:
    return preview("CA1", fields, Understanding(**limits), default_outcome, max_field_bytes=4096, moment=NOW)


@given(session)
@settings(max_examples=400, deadline=None)
@example({b"started_at": b"-90000000000"})
@example({b"message:1": b'{"role":"user","content":"","timestamp":-90000000000}'})
@example({b"metric:1": b'{"metric_type":"llm_prompt_tokens","value":1e308}'})
@example({b"metric:%d" % n: b'{"metric_type":"llm_prompt_tokens","value":1e308}' for n in range(3)})
@example({b"metric:1": b'{"metric_type":"llm_ttfb","value":1e308,"unit":"s"}'})
@example({b"cost:1": b'{"service":"x","amount_cents":99999999999999.99999999999}'})
@example({b"cost:1": b'{"service":"x","usage":1e13,"unit_price_cents":1e13}'})
@example({b"estimated_cost_cents": b"1e-999999", b"analysis": b'{"sentiment_score": 1%s}' % (b"0" * 400)})
@example({b"tool:1": b'{"name":"x","arguments":1%s}' % (b"0" * 5000)})
def test_no_session_raises_and_every_event_is_a_row_or_a_reject(fields: dict[bytes, bytes]) -> None:
    made = understood(fields)
    rejected = {reject.field for reject in made.rejects if not reject.cleaned}
    kept = {
        str(row[table.columns.index("event_id")])
        for table, rows in made.rows.items()
        if "event_id" in table.columns
        for row in rows
    }
    for field in fields.keys() - rejected:
        family, colon, event_id = field.decode("utf-8", "replace").partition(":")
        if colon and family in MODELS:
            assert event_id in kept, field


def test_a_field_that_is_ignored_is_nowhere_whoever_knows_it() -> None:
    fields = {b"agent_name": b"Juno", b"channel": b"phone", b"agent_own": b"x", b"own": b"y"}
    call = Understanding(ignore_fields=["agent_*"]).call("CA1", fields, {})
    assert (call.state, call.extra, call.rejects) == ({"channel": "phone"}, {"own": "y"}, [])
