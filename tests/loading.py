"""Many archived calls, quickly: the recorded conversations over and over, by the bridge's own path.

Each call has the words, the roles and the language of a recorded one. What those lack is made up around them: a tenant,
an agent and a user, workflow steps, measurements, a retrieval and a charge. The calls lie evenly in the days before
now, the latest last.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

FILES = ("spoken", "tool-calls-written")
TENANTS = ("acme", "bolt", "")
AGENTS = ("Ann", "Bo", "Cy", "Di")
USERS = 50
CHUNKS = 1_500
AT_ONCE = 500

Fields = dict[str, str]


def recorded(folder: Path) -> Iterator[Fields]:
    """The fields of every recorded conversation that change with nothing."""
    for file in FILES:
        with gzip.open(folder / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                call = json.loads(line)
                fields = {"language": call["language"], "direction": call["direction"]}
                fields = {name: value for name, value in fields.items() if value is not None}
                for turn in call["turns"]:
                    message = {"role": turn["role"], "content": turn["text"], "turn_number": turn["seq"]}
                    fields[f"message:{turn['seq']}"] = json.dumps(message, ensure_ascii=False)
                yield fields


def made_up(number: int, started: datetime) -> Fields:
    """What a call has besides its words."""
    ended = started + timedelta(seconds=30 + number % 300)
    tenant = TENANTS[number % len(TENANTS)]
    chunk = number % CHUNKS
    events: dict[str, dict[str, Any]] = {
        "transition:1": {"from_node_id": "greeting", "to_node_id": "ask"},
        "transition:2": {"from_node_id": "ask", "to_node_id": f"end-{number % 3}"},
        "metric:1": {"metric_type": "user_to_bot_latency", "value": 400 + number % 500},
        "metric:2": {"metric_type": "llm_ttfb", "value": 100 + number % 90},
        "rag:1": {
            "query_text": "opening hours",
            "chunks": [
                {
                    "content": f"Branch {chunk} opens at {chunk % 12} o'clock and takes parcels of {chunk} kg.",
                    "filename": f"{chunk}.md",
                }
            ],
        },
        "cost:1": {"service": "llm", "amount_cents": number % 7},
    }
    fields = {
        "status": "completed",
        "agent_id": f"agent-{number % len(AGENTS)}",
        "agent_name": AGENTS[number % len(AGENTS)],
        "user_id": f"user-{number % USERS}",
        "started_at": started.isoformat(),
        "ended_at": ended.isoformat(),
        **{name: json.dumps(event) for name, event in events.items()},
    }
    return fields | ({"tenant_id": tenant} if tenant else {})


async def load_calls(
    bridge: Any,
    folder: Path,
    count: int,
    *,
    days: float = 30,
    label: str = "load",
    progress: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Archive `count` calls through an open bridge; their SIDs, the earliest first.

    `bridge` is a `session_bridge.service.Bridge`; no worker may be draining its namespace. A large batch size is
    quicker. The tables are analyzed at the end by whoever asks for plans.
    """
    conversations = list(recorded(folder))
    now = datetime.now(UTC) - timedelta(minutes=10)
    sids = [f"{label}-{number:07}" for number in range(count)]
    for first in range(0, count, AT_ONCE):
        piece = range(first, min(first + AT_ONCE, count))
        async with bridge.redis.pipeline(transaction=False) as pipeline:
            for number in piece:
                started = now - timedelta(days=days) * ((count - number) / count)
                fields = conversations[number % len(conversations)] | made_up(number, started)
                pipeline.hset(bridge.keys.session(sids[number]), mapping=fields)
            pipeline.zadd(bridge.keys.ready, {sids[number]: 0 for number in piece})
            await pipeline.execute()
        while await bridge.redis.zcard(bridge.keys.ready):
            await bridge.loop.drain_once()
        progress(piece.stop)
    return sids
