"""Searching by meaning: calls are embedded after they were archived, again for a new model, and found by pgvector."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from session_bridge.archive.embeddings import known_models, lease_model
from session_bridge.archive.migrations import migrate
from session_bridge.archive.search import Filters, Hit, search_by_meaning
from session_bridge.archive.sql import QUERIES
from session_bridge.errors import SearchError
from session_bridge.upkeep.embed import PART_CHARACTERS, Embedder, embed_archived

DIMENSION = 64
NO_OVERLAP, OVERLAP = timedelta(0), timedelta(minutes=5)


def vector(text: str, dimension: int = DIMENSION) -> list[float]:
    """A bag of words: what shares words is near."""
    numbers = [0.01] * dimension
    for word in text.lower().replace(".", " ").split():
        numbers[int(hashlib.sha256(word.encode()).hexdigest(), 16) % dimension] += 1
    return numbers


class Counting:
    """An embedding function that remembers what it was asked."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.texts: list[str] = []
        self.dimension = dimension

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts += texts
        return [vector(text, self.dimension) for text in texts]


@pytest.fixture
async def spoken(bridge: Any) -> Any:
    """A few calls about different things."""
    for sid, tenant, said in (
        ("parcel", "acme", "my parcel is late where is the parcel"),
        ("invoice", "acme", "the invoice has a wrong amount"),
        ("doctor", "bolt", "an appointment with the doctor"),
        ("parcel of bolt", "bolt", "the parcel never came and it is late"),
    ):
        message = {"role": "user", "content": said}
        await bridge.ask(sid, {"message:1": message}, tenant_id=tenant, agent_id=f"agent of {tenant}")
    await bridge.drain()
    return bridge


async def embed(bridge: Any, function: Any, model: str = "words", overlap: timedelta = OVERLAP) -> int | None:
    return await embed_archived(bridge.bridge.connections, Embedder(model, function), overlap)


async def near(bridge: Any, text: str, model: str = "words", dimension: int = DIMENSION, **filters: Any) -> list[Hit]:
    return await search_by_meaning(bridge.bridge.connections, vector(text, dimension), model, Filters(**filters))


async def test_the_nearest_call_is_first(spoken: Any) -> None:
    function = Counting()
    assert await embed(spoken, function) == 4
    hits = await near(spoken, "parcel late")
    assert next(hit.call_sid for hit in hits) == "parcel"
    assert {hit.call_sid for hit in hits[:2]} == {"parcel", "parcel of bolt"}
    assert hits[0].snippet == "user: my parcel is late where is the parcel"
    assert hits[0].rank > hits[1].rank > hits[2].rank
    assert next(hit.call_sid for hit in await near(spoken, "parcel late", tenant="bolt")) == "parcel of bolt"
    assert {hit.tenant_id for hit in await near(spoken, "parcel late", tenant="bolt")} == {"bolt"}
    assert {hit.tenant_id for hit in await near(spoken, "parcel", agent="agent of acme")} == {"acme"}
    assert len(await near(spoken, "parcel", limit=1)) == 1
    # What was archived lately is looked at again, but not embedded again.
    assert await embed(spoken, function) == 0
    assert len(function.texts) == 4


async def test_late_data_is_embedded_again_and_a_late_commit_is_not_missed(spoken: Any) -> None:
    function = Counting()
    await embed(spoken, function)
    await spoken.ask("doctor", {"message:2": {"role": "user", "content": "no a plumber"}})
    await spoken.ask("invoice", recording_url="https://r/1")
    await spoken.drain()
    assert await embed(spoken, function) == 1
    assert function.texts[4:] == ["user: an appointment with the doctor\nuser: no a plumber"]
    assert next(hit.call_sid for hit in await near(spoken, "plumber")) == "doctor"

    await spoken.ask("late", {"message:1": {"role": "user", "content": "a violin"}})
    await spoken.drain()
    await spoken.rows(
        "UPDATE call_sessions SET archived_at = now() - interval '3 min' WHERE call_sid = 'late' RETURNING id"
    )
    assert await embed(spoken, function) == 1, "archived before the last one was, committed after"


async def test_a_new_model_embeds_everything_and_the_old_one_goes_on_answering(spoken: Any) -> None:
    await embed(spoken, Counting())
    small = Counting(8)
    assert await embed(spoken, small, "small") == 4
    assert len(await near(spoken, "parcel", "small", 8)) == 4
    assert next(hit.call_sid for hit in await near(spoken, "late parcel")).startswith("parcel")
    models = {model.model: model.dimension for model in await known_models(spoken.bridge.connections)}
    assert models == {"words": DIMENSION, "small": 8}


async def test_a_long_call_is_embedded_in_parts(bridge: Any) -> None:
    lines = [f"sentence {number} about the garden and the weather" for number in range(200)]
    lines[150] = "at last the zebra"
    messages = {f"message:{n}": {"role": "user", "content": line} for n, line in enumerate(lines)}
    await bridge.ask("long", messages)
    await bridge.drain()
    function = Counting()
    assert await embed(bridge, function) == 1
    assert len(function.texts) > 3
    assert all(len(text) <= PART_CHARACTERS for text in function.texts)
    [whole] = await bridge.rows("SELECT transcript_text FROM call_transcripts")
    assert "".join(function.texts) == whole["transcript_text"]
    part = next(text for text in function.texts if "zebra" in text)
    [hit] = await near(bridge, part)
    assert (hit.call_sid, hit.snippet) == ("long", part[:300])


async def test_many_pages_and_two_workers(bridge: Any) -> None:
    for number in range(120):
        await bridge.ask(f"c{number}", {"message:1": {"role": "user", "content": f"call number {number}"}})
    await bridge.ask("silent", provider="twilio")
    await bridge.drain()
    functions = [Counting(), Counting()]
    done = await asyncio.gather(*(embed(bridge, function, overlap=NO_OVERLAP) for function in functions))
    assert sorted(count or 0 for count in done) == [0, 120]
    assert sum(len(function.texts) for function in functions) == 120
    connections = bridge.bridge.connections
    held = await lease_model(connections, "words", 60)
    assert held is not None
    assert await embed(bridge, Counting()) is None, "another worker has the work"


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: [[1.0]] * 99,
        lambda texts: [[1.0] * (1 + n) for n, _ in enumerate(texts)],
        lambda texts: [[float("nan")] for _ in texts],
        lambda texts: [[] for _ in texts],
        lambda _: None,
        lambda texts: [["x"] for _ in texts],
    ],
)
async def test_a_function_that_answers_nonsense_is_told_so(spoken: Any, answer: Any) -> None:
    with pytest.raises(SearchError, match="SESSION_BRIDGE_EMBEDDING"):
        await embed(spoken, answer)
    assert await spoken.rows("SELECT 1 FROM call_embeddings") == []
    assert await embed(spoken, Counting()) == 4, "and the work was given back"


async def test_a_model_that_is_too_wide_says_so(spoken: Any) -> None:
    with pytest.raises(SearchError, match="1 to 4000"):
        await embed(spoken, Counting(4001))
    assert await embed(spoken, Counting(3000), "wide") == 4
    assert len(await near(spoken, "parcel", "wide", 3000)) == 4


async def test_the_index_answers_and_new_months_have_it_too(spoken: Any, database_url: str) -> None:
    await embed(spoken, Counting())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO call_embeddings SELECT gen_random_uuid(), 'words', n, NULL, %s, 1, 1, '', "
            "(SELECT array_agg(random()) FROM generate_series(1, %s) WHERE n = n) FROM generate_series(1, 5000) AS n",
            [DIMENSION, DIMENSION],
        )
        connection.execute("ANALYZE")
        connection.execute("SELECT create_monthly_partition('call_embeddings', '2041-05-01')")
        [(indexes,)] = connection.execute(
            "SELECT count(*) FROM pg_indexes WHERE tablename = 'call_embeddings_y2041m05' AND indexdef LIKE '%hnsw%'"
        ).fetchall()
        assert indexes == 1
        heard: list[str] = []
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        connection.execute(
            "LOAD 'auto_explain'; SET client_min_messages = log; SET auto_explain.log_min_duration = 0; "
            "SET auto_explain.log_nested_statements = on"
        )
        given: dict[str, Any] = {"asked": vector("parcel"), "model": "words"}
        given |= {"tenant": None, "agent": None, "since": None, "limit": 5}
        connection.execute(QUERIES["search_by_meaning"], given)
    [plan] = [text for text in heard if "<=>" in text and "Order By" in text]
    assert "Index Scan using call_embeddings_default_" in plan
    assert "Seq Scan on call_embeddings" not in plan


async def test_down_and_up_again_with_vectors_in_it(spoken: Any, database_url: str) -> None:
    await embed(spoken, Counting())
    migrate(database_url, to=2)
    migrate(database_url)
    assert await embed(spoken, Counting()) == 4
    assert len(await near(spoken, "parcel")) == 4


async def test_without_pgvector_everything_else_works_and_the_search_says_what_is_missing(spoken: Any) -> None:
    with pytest.raises(SearchError, match="CREATE EXTENSION vector"):
        await near(spoken, "parcel")
    assert await spoken.rows("SELECT 1 FROM call_embeddings") == []


def test_a_role_that_may_not_create_the_extension(database_url: str) -> None:
    role = sql.Identifier("embedding_writer")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        try:
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(role))
            # It runs with the rights of whoever owns the archive: here somebody with none in the database.
            owned = sql.SQL("ALTER FUNCTION prepare_semantic_search(text, integer) OWNER TO {}").format(role)
            connection.execute(owned)
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            [(missing,)] = connection.execute("SELECT prepare_semantic_search('m', 3)").fetchall()
        finally:
            connection.execute("RESET ROLE")
            connection.execute("ALTER FUNCTION prepare_semantic_search(text, integer) OWNER TO CURRENT_USER")
            connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    assert "let the owner of the database run CREATE EXTENSION vector" in missing
