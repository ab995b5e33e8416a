"""Two callbacks make the same call whether they meet in the live session or in the archive."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_bridge.contract.fields import Family
from session_bridge.drain.call import Call
from session_bridge.drain.combine import combine
from session_bridge.drain.understand import Understanding
from session_bridge.webhooks.delivery import Delivery
from session_bridge.webhooks.news import News

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

WRITERS = [{}, {"status": "in-progress"}, {"status": "Completed"}, {"status": "abandoned"}, {"status": "a new word"}]
values = st.sampled_from(["a", "b"])
moments = st.integers(0, 3).map(lambda seconds: (NOON + timedelta(seconds=seconds)).isoformat())
words = st.sampled_from(["ringing", "in-progress", "Completed", "busy", "no-answer", "failed", "a new word"])
events = st.builds(
    lambda revision, name: json.dumps(
        ({"revision": revision} if revision else {}) | {"identity": name}, separators=(",", ":")
    ),
    st.integers(0, 3),
    values,
)
said = st.fixed_dictionaries(
    {},
    optional={
        "agent_name": values,
        "to_number": values,
        "metadata": values.map(lambda value: json.dumps({"value": value})),
        "unheard_of": values,
        "last_activity_at": moments,
        "participant:1": events,
        "participant:2": events,
        "callback:1": events,
    },
)
statuses = st.fixed_dictionaries({}, optional={"status": words, "status_sequence": st.integers(0, 2).map(str)}).filter(
    lambda fields: "status" in fields or not fields
)
callbacks = st.builds(lambda fields, status: fields | status, said, statuses)
writers = st.builds(
    lambda fields, status: fields | status, said, st.just({}) | words.map(lambda word: {"status": word})
)


def understood(fields: dict[bytes, bytes]) -> Call:
    return Understanding().call("CA1", fields, {})


def told(call: Call) -> dict[str, Any]:
    """All that is known of a call, comparable."""
    participants = [(event.event_id, event.identity, event.extra) for event in call.of(Family.PARTICIPANT)]
    return {
        "state": call.state,
        "documents": call.documents,
        "extra": call.extra,
        "participants": sorted(participants, key=str),
        "unknown": [(event.event_id, event.payload) for event in call.unknown_events],
    }


async def together_and_apart(
    url: str, first: dict[str, str], second: dict[str, str], names: Any
) -> list[dict[str, Any]]:
    async with redis.asyncio.Redis.from_url(url) as client:
        delivery, results = Delivery(client), []
        for in_archive in (False, True):
            sid, archived = f"CA{next(names)}", None
            key = f"session:{sid}"
            if first:
                await client.hset(key, mapping=first)
            if in_archive:
                archived = combine(None, understood(await client.hgetall(key)), requested=False)
                # What was only inferred is left out when an archived call is read back.
                for name in archived.inferred:
                    del archived.state[name]
                await client.delete(key)
            await delivery.deliver([News(sid, dict(second))], "twilio")
            found = combine(archived, understood(await client.hgetall(key)), requested=False)
            results.append(told(found))
        return results


def test_it_does_not_matter_where_two_callbacks_meet(redis_url: str) -> None:
    names = itertools.count()

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(callbacks, callbacks)
    def of_one_provider(first: dict[str, str], second: dict[str, str]) -> None:
        by = {"status_by": "twilio"} if "status" in first else {}
        both = asyncio.run(together_and_apart(redis_url, {"provider": "twilio"} | first | by, second, names))
        assert both[0] == both[1]

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(writers, callbacks)
    def of_a_writer_and_a_provider(first: dict[str, str], second: dict[str, str]) -> None:
        both = asyncio.run(together_and_apart(redis_url, {"provider": "twilio"} | first, second, names))
        assert both[0] == both[1]

    of_one_provider()
    of_a_writer_and_a_provider()
