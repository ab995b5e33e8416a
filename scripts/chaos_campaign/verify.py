"""Compares the archive with what Redis had acknowledged, and with itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from chaos_campaign.summaries import SUMMARIES
from session_bridge.archive.tables import CHILDREN, EVENT_TABLES, SUMMARY_COLUMNS
from session_bridge.contract.fields import TEXT_FIELDS, Family

Told: TypeAlias = Mapping[str, Mapping[str, str]]
"""Acknowledged fields by call SID and name."""

# Why a drain was asked for last, and by whom, depends on who came first.
_COMPARED_STATE = sorted({*TEXT_FIELDS} - {"finalize_reason", "finalized_by", "outcome"})
_COMPARED_DOCUMENTS = ("collected_data", "metadata")
_ROUNDING = 1e-9
_SHOWN = 20


@dataclass(slots=True)
class Findings:
    """What is wrong; each list names what it is about, and all are empty after a good campaign."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    inconsistent: list[str] = field(default_factory=list)
    """Row counts, summaries and digests that do not agree with the rows beside them."""

    events: int = 0
    fields: int = 0

    def shown(self) -> dict[str, list[str]]:
        """The first of each list."""
        lists = {"lost": self.lost, "doubled": self.doubled, "altered": self.altered, "inconsistent": self.inconsistent}
        return {name: found[:_SHOWN] for name, found in lists.items() if found}


def verify(database_url: str, told: Told, broken: Collection[str] = ()) -> Findings:
    """Compare every acknowledged field with the archive, and every call's figures with its rows.

    Of the calls in `broken` more may be archived than was acknowledged, and newer states.
    """
    findings = Findings()
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        connection.execute("SET timezone = 'UTC'")
        sessions = _sessions(connection, told, findings)
        rows = _event_rows(connection)
        for sid, fields in told.items():
            if sid in sessions:
                session = sessions[sid]
                _compare_call(sid, fields, session, rows[str(session["id"])], findings, is_broken=sid in broken)
        _check_counts(connection, sessions, findings)
        for session in sessions.values():
            if session["content_digest"] != _digest(rows[str(session["id"])]):
                findings.inconsistent.append(f"{session['call_sid']}: content_digest")
    return findings


def _sessions(connection: psycopg.Connection[DictRow], told: Told, findings: Findings) -> dict[str, DictRow]:
    again = sql.SQL(", ").join(
        sql.SQL("({}) AS {}").format(sql.SQL(query), sql.Identifier(f"again_{name}"))
        for name, query in SUMMARIES.items()
    )
    found: dict[str, DictRow] = {}
    for row in connection.execute(sql.SQL("SELECT call.*, {} FROM call_sessions AS call").format(again)):
        sid = row["call_sid"]
        if sid in found:
            findings.doubled.append(f"{sid}: the whole call")
        if sid not in told:
            findings.doubled.append(f"{sid}: nobody told of it")
        found[sid] = row
        for name in SUMMARY_COLUMNS:
            if not _same(row[name], row[f"again_{name}"]):
                findings.inconsistent.append(f"{sid}: {name} is {row[name]}, by its rows {row[f'again_{name}']}")
        if row["status"] != "completed":
            findings.altered.append(f"{sid}: status is {row['status']}")
    findings.lost += [f"{sid}: the whole call" for sid in told.keys() - found.keys()]
    return found


# -- events ---------------------------------------------------------------------------------------------------------

Rows: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""The rows of one session, by family and event id, in their order; what has no column is beside what has."""


def _event_rows(connection: psycopg.Connection[DictRow]) -> dict[str, Rows]:
    sessions: dict[str, Rows] = defaultdict(lambda: defaultdict(dict))
    for family, table in EVENT_TABLES.items():
        order = "query_sequence" if family is Family.RAG else "sequence"
        query = sql.SQL("SELECT to_jsonb(t) AS event FROM {} AS t ORDER BY session_id, {}")
        for row in connection.execute(query.format(sql.Identifier(table.name), sql.Identifier(order))):
            event = row["event"]
            sessions[event["session_id"]][family][event["event_id"]] = event | (event["extra"] or {})
    for row in connection.execute("SELECT to_jsonb(t) AS chunk FROM call_rag_chunk_texts AS t ORDER BY chunk_rank"):
        chunk = row["chunk"]
        retrieval = sessions[chunk["session_id"]][Family.RAG][chunk["event_id"]]
        retrieval.setdefault("chunks", []).append(chunk | (chunk["extra"] or {}))
    return sessions


def _compare_call(
    sid: str, fields: Mapping[str, str], session: DictRow, rows: Rows, findings: Findings, *, is_broken: bool
) -> None:
    known: set[tuple[str, str]] = set()
    for name, text in fields.items():
        family, colon, event_id = name.partition(":")
        if not colon:
            findings.fields += 1
            if not is_broken and not _same_state(name, text, session):
                findings.altered.append(f"{sid}: {name} is {session[name]!r}, acknowledged was {text!r}")
            continue
        findings.events += 1
        known.add((family, event_id))
        event = rows[family].get(event_id)
        if event is None:
            findings.lost.append(f"{sid}: {name}")
        elif wrong := [key for key, value in json.loads(text).items() if not _same(event.get(key), value)]:
            findings.altered.append(f"{sid}: {name}: {', '.join(wrong)}")
    findings.doubled += [
        f"{sid}: {family}:{event_id} was never acknowledged"
        for family, events in rows.items()
        for event_id in events
        if (family, event_id) not in known and not is_broken
    ]


def _same_state(name: str, text: str, session: DictRow) -> bool:
    if name in _COMPARED_DOCUMENTS:
        # What is empty says nothing.
        return _same(session[name], json.loads(text) or None)
    return name not in _COMPARED_STATE or session[name] == text


def _same(kept: Any, said: Any) -> bool:  # noqa: ANN401  # JSON, and numbers as PostgreSQL gives them
    """Whether two values are the same, one as it was said and one as a column of its type gives it back."""
    if kept is None or said is None or isinstance(kept, bool) or isinstance(said, bool):
        return kept is said
    if isinstance(said, dict) and isinstance(kept, dict):
        return all(_same(kept.get(key), value) for key, value in said.items())
    if isinstance(said, list) and isinstance(kept, list):
        return len(kept) == len(said) and all(map(_same, kept, said))
    if isinstance(kept, str) and isinstance(said, str):
        return kept == said or _moment(kept) == _moment(said) is not None
    if isinstance(kept, str | dict | list) or isinstance(said, str | dict | list):
        return bool(kept == said)
    return math.isclose(kept, said, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- figures --------------------------------------------------------------------------------------------------------


def _check_counts(connection: psycopg.Connection[DictRow], sessions: Mapping[str, DictRow], findings: Findings) -> None:
    counted: dict[str, dict[str, int]] = defaultdict(dict)
    for table in CHILDREN:
        query = sql.SQL("SELECT session_id, count(*) AS rows FROM {} GROUP BY session_id")
        for row in connection.execute(query.format(sql.Identifier(table.name))):
            counted[str(row["session_id"])][table.name] = row["rows"]
    for sid, session in sessions.items():
        counts = counted.pop(str(session["id"]), {})
        if counts != session["row_counts"]:
            findings.inconsistent.append(f"{sid}: row_counts are {session['row_counts']}, the rows {counts}")
    findings.doubled += [f"rows of {session_id}, which is no call" for session_id in counted]


def _digest(rows: Rows) -> str:
    """The digest as the archive's documentation describes it: over the events in their order, family by family."""
    total = hashlib.sha256()
    for family in Family:
        total.update("\x1e".join(_parts(family, rows.get(family, {}))).encode())
    return total.hexdigest()


def _parts(family: Family, events: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield family.value
    yield from events
    if family is Family.MESSAGE:
        for event in events.values():
            yield f"{event['role']}\x1f{event['content']}"
