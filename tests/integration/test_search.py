"""Searching by words: in the language of each call, and in whatever else people say and type."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from session_bridge.archive.search import Filters, Hit, Place, search
from session_bridge.contract import ids
from session_bridge.errors import SearchError


async def say(bridge: Any, sid: str, *said: str, **fields: Any) -> None:
    """Archive a call in which user and assistant take turns."""
    messages = {
        f"message:{number}": {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate(said)
    }
    await bridge.ask(sid, messages, status="completed", started_at=(ids.now()).isoformat(), **fields)
    await bridge.drain()


async def found(bridge: Any, query: str, place: Place = Place.CALLS, speaker: str | None = None, **filters: Any) -> Any:
    given = Filters(mark="[", unmark="]", **filters)
    return await search(bridge.bridge.connections, query, given, place, speaker)


async def sids(bridge: Any, query: str, **given: Any) -> set[str]:
    return {hit.call_sid for hit in await found(bridge, query, **given)}


async def test_each_call_is_searched_in_its_own_language(bridge: Any) -> None:
    await say(bridge, "english", "I would like to cancel two bookings", language="en-US")
    await say(bridge, "polish", "Chciałbym zarezerwować żółtą łódkę", language="pl")
    await say(bridge, "hindi", "मुझे अपनी किताबों की बुकिंग रद्द करनी है", language="hi")
    await say(bridge, "nobody knows", "Cancelling the Bookings, s'il vous plaît")

    # English words in any form; a call whose language nobody knows, by the words as they were said.
    assert await sids(bridge, "booking") == {"english"}
    assert await sids(bridge, "bookings cancelling") == {"english", "nobody knows"}
    # PostgreSQL knows no Polish: the word itself, in small letters or capitals.
    assert await sids(bridge, "ŁÓDKĘ") == {"polish"}
    assert await sids(bridge, "łódka") == set()
    # It does know Hindi: किताब is a book, किताबों are books.
    assert await sids(bridge, "किताब") == {"hindi"}
    assert await sids(bridge, "plaît") == {"nobody knows"}


async def test_what_a_person_may_type(bridge: Any) -> None:
    await say(bridge, "a", "The refund went to the wrong address", language="en")
    await say(bridge, "b", "A refund, and the address was not wrong", language="en")
    await say(bridge, "c", "Nothing but a delivery", language="en")
    assert await sids(bridge, '"wrong address"') == {"a"}
    assert await sids(bridge, "refund -wrong") == set()
    assert await sids(bridge, 'refund -"wrong address"') == {"b"}
    assert await sids(bridge, "deliveries OR refunds") == {"a", "b", "c"}
    # A word is left out in one form: in the language of the call, every form is.
    assert await sids(bridge, "delivery -refunds") == {"c"}
    assert await sids(bridge, "refund -addresses") == set()
    for odd in ("'; DROP TABLE call_sessions; --", "a & | ! ( <->", "\x00refund\\", '"', "refund:*", "🙂 refund"):
        try:
            await found(bridge, odd)
        except SearchError:
            continue
    assert len(await bridge.rows("SELECT 1 FROM call_sessions")) == 3


@pytest.mark.parametrize("query", ["", "   ", "!!", "-refund", "the", "refund OR -wrong"])
async def test_a_query_without_a_word_that_must_occur_says_so(bridge: Any, query: str) -> None:
    if query == "the":
        # A stop word in English is a word where nobody knows the language.
        assert await found(bridge, query) == []
        return
    with pytest.raises(SearchError, match=r"needs a word.*add one"):
        await found(bridge, query)


async def test_the_best_is_first_and_the_snippet_shows_why(bridge: Any) -> None:
    filler = "we talk about the weather and the garden for a long while. " * 30
    await say(bridge, "once", f"{filler} invoice {filler}", language="en")
    await say(bridge, "often", "The invoice: an invoice is an invoice.", language="en")
    hits: list[Hit] = await found(bridge, "invoices")
    assert [hit.call_sid for hit in hits] == ["often", "once"]
    assert hits[0].rank > hits[1].rank > 0
    assert hits[0].snippet.count("[invoice]") == 3
    assert "[invoice]" in hits[1].snippet
    assert len(hits[1].snippet) < 400


async def test_messages_are_found_with_who_said_them(bridge: Any) -> None:
    await say(bridge, "a", "I want a refund.", "A refund takes five days.", "Fine.", language="en")
    hits = await found(bridge, "refund", Place.MESSAGES)
    assert {(hit.number, hit.source) for hit in hits} == {(1, "user"), (2, "assistant")}
    [hit] = await found(bridge, "refund", Place.MESSAGES, speaker="assistant")
    assert (hit.call_sid, hit.number, hit.snippet) == ("a", 2, "[refund] takes five days")
    # Both words are said in the call, but not in one message.
    assert await found(bridge, "refund fine", Place.MESSAGES) == []
    # The call as a whole says "five"; the message that does not is found all the same.
    [hit] = await found(bridge, "refund -five", Place.MESSAGES)
    assert hit.number == 1

    await bridge.ask("b", {"message:1": {"role": "user", "content": "refund me", "speaker": "Mrs Hall"}}, language="en")
    await bridge.drain()
    [hit] = await found(bridge, "refund", Place.MESSAGES, speaker="Mrs Hall")
    assert (hit.call_sid, hit.source) == ("b", "Mrs Hall")


async def test_chunks_are_found_with_the_calls_that_retrieved_them(bridge: Any) -> None:
    chunk = {"content": "Returns are accepted within thirty days.", "filename": "returns.md"}
    for sid, language in (("a", "en"), ("b", "pl"), ("c", "en")):
        rag = {"rag:1": {"query_text": "q", "chunks": [{"content": "Other."}, chunk]}}
        tenant = {} if sid == "c" else {"tenant_id": "acme"}
        await say(bridge, sid, "hello", language=language, **tenant, **rag)
    hits = await found(bridge, "return thirty", Place.CHUNKS)
    assert {hit.call_sid for hit in hits} == {"a", "b", "c"}
    assert {(hit.number, hit.source) for hit in hits} == {(2, "returns.md")}
    assert hits[0].snippet == "[Returns] are accepted within [thirty] days"
    assert {hit.call_sid for hit in await found(bridge, "return", Place.CHUNKS, tenant="acme")} == {"a", "b"}
    rows = await bridge.rows("SELECT tenant_id, language FROM rag_chunk_contents WHERE content LIKE 'Returns%'")
    assert {(row["tenant_id"], row["language"]) for row in rows} == {("acme", "en"), ("", "en")}


async def test_filters(bridge: Any) -> None:
    await say(bridge, "a", "refund", tenant_id="acme", agent_id="1", agent_name="Ann")
    await say(bridge, "b", "refund", tenant_id="bolt", agent_id="2")
    old = (ids.now() - timedelta(days=20)).isoformat()
    await bridge.ask("c", {"message:1": {"role": "user", "content": "refund"}}, started_at=old, status="completed")
    await bridge.drain()
    assert await sids(bridge, "refund") == {"a", "b", "c"}
    assert await sids(bridge, "refund", tenant="acme") == {"a"}
    assert await sids(bridge, "refund", tenant="") == set()
    assert await sids(bridge, "refund", agent="Ann") == await sids(bridge, "refund", agent="1") == {"a"}
    assert await sids(bridge, "refund", since=ids.now() - timedelta(days=7)) == {"a", "b"}
    assert len(await found(bridge, "refund", limit=2)) == 2


async def test_late_data_is_found_and_what_was_replaced_is_not(bridge: Any) -> None:
    await say(bridge, "a", "the first draft", language="en")
    await bridge.ask("a", {"message:0": {"role": "user", "content": "the second version"}})
    await bridge.drain()
    assert await sids(bridge, "draft") == set()
    assert await sids(bridge, "version") == {"a"}


async def test_no_text_is_too_long_or_too_dense_to_be_archived(bridge: Any) -> None:
    chance = random.Random(7)

    def words(alphabet: str, size: int, length: int, joint: str) -> str:
        pieces, total = [], 0
        while total < length:
            word = "".join(chance.choices(alphabet, k=size))
            pieces.append(word + chance.choice(joint))
            total += size + 1
        return "".join(pieces)

    cjk = "".join(map(chr, range(0x4E00, 0x4E00 + 6000)))
    wide = "".join(map(chr, range(0x20000, 0x20000 + 6000)))
    latin = "ąćęłńóśźżabcdefghijklmnopqrstuvwxyz"
    texts = {
        "hyphens": words(latin, 2, 400_000, "- "),
        "cjk": words(cjk, 1, 400_000, "- "),
        "wide": words(wide, 2, 400_000, "- "),
        "plain": words(latin, 4, 400_000, " "),
        "paths": words(latin, 2, 400_000, "./ "),
        "one word": "x" * 300_000,
        "mails": words("abcdefgh", 3, 400_000, "@. "),
    }
    for sid, text in texts.items():
        await say(bridge, sid, f"needle {text}", language="en")
    assert {row["call_sid"] for row in await bridge.rows("SELECT call_sid FROM call_sessions")} == set(texts)
    assert await bridge.rows("SELECT 1 FROM dead_sessions") == []
    assert await sids(bridge, "needle") == set(texts)
    lengths = await bridge.rows("SELECT min(length(transcript_text)) AS least FROM call_transcripts")
    assert lengths[0]["least"] > 300_000, "the text itself is whole"


async def test_a_languages_name_in_any_form(bridge: Any) -> None:
    names = ["en", "EN", "en-GB", "en_us", " eng ", "English", "hi-IN", "pt-BR", "nb", "pl", "xx", "", None]
    rows = await bridge.rows(
        "SELECT search_configuration(name)::text AS c FROM unnest(%s::text[]) WITH ORDINALITY AS n (name, place) "
        "ORDER BY place",
        names,
    )
    assert [row["c"] for row in rows] == [
        *["english"] * 6,
        "hindi",
        "portuguese",
        "norwegian",
        *["simple"] * 4,
    ]


def test_an_index_is_rebuilt_under_the_search_path_of_maintenance(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO call_transcripts (session_id, language, transcript_text, transcript_data) "
            "VALUES (session_id_floor(now()), 'en', 'bookings', '[]')"
        )
        connection.execute("SET search_path = pg_catalog")
        connection.execute("REINDEX TABLE public.call_transcripts")
        connection.execute("VACUUM ANALYZE public.call_transcripts")
        [(count,)] = connection.execute("SELECT count(*) FROM public.search_calls('booking')").fetchall()
    assert count == 0, "a transcript without its call is no call"
