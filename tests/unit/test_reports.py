"""Whole reports: what they must have, and that nothing of them is lost, however they come."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session_bridge.drain.understand import Understanding
from session_bridge.errors import UnreadableReportError
from session_bridge.webhooks.reports import elevenlabs, livekit, retell, vapi

FOLDER = Path(__file__).resolve().parent.parent / "reports"
PROVIDERS: dict[str, Callable[[Any], list[Any]]] = {
    "vapi": vapi.understand,
    "retell": retell.understand,
    "elevenlabs": elevenlabs.understand,
    "livekit": livekit.understand,
}
REPORTS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
# Words that say what kind of item something is: the family it is put into says the same.
KINDS = {
    "tool_calls",
    "tool_call_result",
    "tool_call_invocation",
    "node_transition",
    "message",
    "function_call",
    "function_call_output",
    "agent_handoff",
    "conversation_item_added",
}


def understand(name: str, report: Any) -> list[Any]:
    return PROVIDERS[name.partition("_")[0]](report)


def texts(value: Any) -> Iterator[str]:
    """Every text within, also in the JSON that a text may hold."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, str) and value and value not in KINDS:
        yield value


def told(news: list[Any]) -> set[str]:
    found: set[str] = set()
    for item in news:
        found.add(item.call_sid)
        for name, value in item.fields.items():
            found |= {name.partition(":")[2], value}
            with contextlib.suppress(ValueError):
                found |= set(texts(json.loads(value)))
    return found


def is_told(leaf: str, found: set[str]) -> bool:
    """Whether it is there: by itself, or as one of the texts that were joined to a message."""
    return leaf in found or any(f"\n{leaf}\n" in f"\n{text}\n" for text in found)


def test_there_is_a_report_of_every_provider() -> None:
    assert {name.partition("_")[0] for name in REPORTS} == set(PROVIDERS)


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_of_a_report_is_lost_and_a_repeat_says_the_same(name: str) -> None:
    news = understand(name, REPORTS[name])
    found = told(news)
    assert [leaf for leaf in leaves(REPORTS[name]) if not is_told(leaf, found)] == []
    assert understand(name, copy.deepcopy(REPORTS[name])) == news


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize(
    "body", [{}, {"message": None}, {"event": 7, "call": []}, {"type": "x", "data": {}, "job_id": 3}]
)
def test_a_body_that_names_no_call_is_refused_with_the_reason(name: str, body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableReportError, match="missing or is no text"):
        understand(name, body)


def test_a_name_that_cannot_be_a_calls_is_refused() -> None:
    with pytest.raises(UnreadableReportError, match="1 to 255 characters"):
        livekit.understand({"room_id": "R" * 256})
    with pytest.raises(UnreadableReportError, match="UTF-8"):
        retell.understand({"event": "call_ended", "call": {"call_id": "call_\ud800"}})


@pytest.mark.parametrize("bad", [None, 7, "text", [], {}, {"role": 3}, {"role": "user"}, {"role": "tool_calls"}])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vapi", ("message", "artifact", "messages")),
        ("vapi", ("message", "costs")),
        ("vapi", ("message", "artifact", "nodes")),
        ("retell_call_ended", ("call", "transcript_with_tool_calls")),
        ("retell_call_ended", ("call", "call_cost", "product_costs")),
        ("elevenlabs", ("data", "transcript")),
        ("livekit", ("chat_history", "items")),
        ("livekit", ("usage",)),
    ],
)
def test_one_bad_item_costs_no_other(name: str, path: tuple[str, ...], bad: Any) -> None:
    report = copy.deepcopy(REPORTS[name])
    place = report
    for step in path:
        place = place[step]
    place.append(bad)
    [good], [news] = understand(name, REPORTS[name]), understand(name, report)
    assert {field: value for field, value in news.fields.items() if field in good.fields} == good.fields


def test_two_items_of_one_id_are_both_kept() -> None:
    items: list[Any] = [
        {"type": "message", "role": "user", "id": "item_1", "content": [text]} for text in ("one", "two", "one")
    ]
    [news] = livekit.understand({"room_id": "RM_1", "chat_history": {"items": items}})
    contents = {
        name: json.loads(value)["content"] for name, value in news.fields.items() if name.startswith("message:")
    }
    assert contents == {"message:item_1": "one", "message:item_1.2": "two"}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, False),
        ({"created_at": None}, False),
        ({"created_at": "0"}, True),
        ({"by": "somebody"}, True),
        ({"item": {"type": "message", "id": "item_1", "content": ["two"]}}, True),
        ({"item": None}, True),
    ],
)
def test_an_event_is_left_out_only_if_it_says_nothing_but_that_an_item_came(change: dict[str, Any], kept: bool) -> None:
    item: dict[str, Any] = {"type": "message", "role": "user", "id": "item_1", "content": ["one"]}
    event = {"type": "conversation_item_added", "item": {**item, "extra": {}}, "created_at": 1767610042.5, **change}
    [news] = livekit.understand({"room_id": "RM_1", "chat_history": {"items": [item]}, "events": [event]})
    assert ("livekit:event-000001" in news.fields) is kept


def test_text_that_utf8_cannot_carry_is_written_all_the_same() -> None:
    body = {"event": "call_ended", "call": {"call_id": "call_1", "agent_name": "A\ud800", "new": ["\udc00", "\x00"]}}
    [news] = retell.understand(body)  # type: ignore[arg-type]  # a dict of JSON
    for name, value in news.fields.items():
        assert name.encode()
        assert value.encode()


def test_numbers_that_no_column_holds_stay_in_the_rest() -> None:
    body = copy.deepcopy(REPORTS["vapi"])
    body["message"]["cost"] = 10**400
    body["message"]["costs"][0]["cost"] = float("nan")
    body["message"]["timestamp"] = float("inf")
    [news] = vapi.understand(body)
    assert "estimated_cost_cents" not in news.fields
    assert "status_sequence" not in news.fields
    assert "0001-transport" not in " ".join(news.fields)
    assert json.loads(news.fields["vapi:cost-0001"])["type"] == "transport"
    assert json.loads(news.fields["vapi:end-of-call-report"])["message"]["cost"]


@pytest.mark.parametrize(
    ("reason", "spoken", "status"),
    [("dial_busy", False, "busy"), ("dial_no_answer", False, "no_answer"), ("sip_routing_error", False, "failed")],
)
def test_a_call_that_was_never_answered_has_the_status_that_says_so(reason: str, spoken: bool, status: str) -> None:
    [news] = retell.understand(
        {
            "event": "call_ended",
            "call": {"call_id": "c", "call_status": "not_connected", "disconnection_reason": reason},
        }
    )
    assert (news.fields["status"], news.fields["end_reason_raw"], news.ended) == (status, reason, True)


def test_a_call_that_could_not_be_started_has_failed() -> None:
    body = {"type": "call_initiation_failure", "data": {"conversation_id": "c", "failure_reason": "unknown"}}
    [news] = elevenlabs.understand(body)  # type: ignore[arg-type]  # a dict of JSON
    assert (news.fields["status"], news.fields["end_reason"], news.ended) == ("failed", "unknown", True)


def test_sound_is_left_to_the_settings() -> None:
    body = {"type": "post_call_audio", "data": {"conversation_id": "c", "full_audio": "SUQz"}}
    [news] = elevenlabs.understand(body)  # type: ignore[arg-type]  # a dict of JSON
    assert news.fields["audio_elevenlabs"] == "SUQz"
    assert not any("SUQz" in value for name, value in news.fields.items() if name != "audio_elevenlabs")


def test_a_status_update_of_vapi_tells_where_the_call_stands() -> None:
    def news(status: str, **more: Any) -> Any:
        return vapi.understand({"message": {"type": "status-update", "status": status, "call": {"id": "c"}, **more}})[0]

    assert news("in-progress", timestamp=1793786400000).fields["status_sequence"] == "1793786400000"
    assert [news(word).fields.get("status") for word in ("queued", "ringing", "forwarding", "not-found")] == [
        "initiated",
        "ringing",
        "in_progress",
        None,
    ]
    ended = news("ended", endedReason="customer-did-not-answer")
    assert (ended.fields["status"], ended.ended) == ("no_answer", True)
    assert not news("ringing").ended


def test_other_messages_of_vapi_are_kept_one_by_one(shared_calls: Path) -> None:
    vectors = json.loads((shared_calls.parent / "vectors" / "vapi_server_messages.json").read_text(encoding="utf-8"))
    for vector in vectors["messages"]:
        message = {**vector["message"], "call": {"id": "call_1"}}
        [news] = vapi.understand({"message": message})
        found = told([news])
        assert [leaf for leaf in leaves(message) if not is_told(leaf, found)] == []
        assert news.ended == (message["type"] == "end-of-call-report" or message.get("status") == "ended")


def rejects(news: Any) -> list[tuple[bytes, str]]:
    """What the drain would not understand of it; U+0000 it leaves out, whoever wrote it."""
    fields = {name.encode(): value.encode() for name, value in news.fields.items()}
    return [
        (item.field, item.error) for item in Understanding().call(news.call_sid, fields, {}).rejects if not item.cleaned
    ]


# -- any report --------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalar = st.none() | st.booleans() | st.integers() | st.floats() | text | st.integers(-(10**30), 10**30)
anything = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=5
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vapi", ("message", "costs", 2, "cost")),
        ("elevenlabs", ("data", "metadata", "charging", "llm_price")),
    ],
)
def test_a_price_that_no_column_holds_is_no_charge_and_kept(name: str, path: tuple[Any, ...]) -> None:
    report = copy.deepcopy(REPORTS[name])
    within = report
    for step in path[:-1]:
        within = within[step]
    assert isinstance(within[path[-1]], int | float)
    # Dollars are a number yet, and cents are none.
    within[path[-1]] = 1_793_786_401_000
    news = understand(name, report)
    assert "1793786401000" in json.dumps([item.fields for item in news], default=str)
    for item in news:
        assert rejects(item) == []


def test_a_figure_without_a_name_is_kept() -> None:
    report = copy.deepcopy(REPORTS["vapi"])
    report["message"]["artifact"]["performanceMetrics"][""] = 4711
    news = understand("vapi", report)
    assert "4711" in json.dumps([item.fields for item in news], default=str)
    assert [rejects(item) for item in news] == [[]] * len(news)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within, with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield value, key
        yield from places(item)


@pytest.mark.parametrize("name", REPORTS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_change_of_a_report_is_refused_or_kept_to_the_last_text(name: str, data: st.DataObject) -> None:
    report = copy.deepcopy(REPORTS[name])
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        if not report:
            break
        container, key = data.draw(st.sampled_from(list(places(report))), label="place")
        how = data.draw(st.sampled_from(["replace", "replace", "delete", "double", "move", "add"]), label="how")
        if how == "delete":
            del container[key]
        elif how == "double" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif how == "move":
            other = data.draw(st.sampled_from(list(places(report))), label="from")
            container[key] = copy.deepcopy(other[0][other[1]])
        elif how == "add" and isinstance(container, dict):
            container[data.draw(text)] = data.draw(anything)
        else:
            container[key] = data.draw(anything)
    try:
        news = understand(name, report)
    except UnreadableReportError:
        return
    found = told(news)
    assert [leaf for leaf in leaves(report) if not is_told(leaf, found)] == []
    for item in news:
        assert rejects(item) == []
