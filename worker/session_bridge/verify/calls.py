"""Whether each call is what its rows say: counts, digest, summary, numbers, and nothing that belongs to no call.

A page of calls is read in one transaction that sees one moment, so that a drain which is committed in between makes
neither half of it seen. A page is small, so that no transaction is long: nothing waits for it but a DROP or an ATTACH.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import sql

from session_bridge.archive.tables import SUMMARY_COLUMNS
from session_bridge.errors import BridgeError
from session_bridge.verify.checks import Answer, Line, Reading, Subject, failed, line, passed, some, why_not

Progress = Callable[[int, int], None]
"""Told how many calls were looked at, of how many."""

_PAGE = 200
_ALIKE = Decimal("1e-9")
_AVERAGES = frozenset(name for name in SUMMARY_COLUMNS if name.endswith(("_ms", "_tokens", "_characters")))
_AGAIN = "ask for its drain again, or load it from a backup; `session-bridge explain SID` says what became of it"

CALL_CHECKS: Mapping[str, tuple[str, str, str]] = {
    "calls.book": (
        "calls in the book",
        "calls that the book does not know, or counts other drains of",
        "restore call_sids from a backup of the same moment as call_sessions: together they are one record",
    ),
    "calls.row_counts": ("row counts", "calls with other rows than row_counts says", _AGAIN),
    "calls.digests": ("content digests", "calls whose words or events are not those of content_digest", _AGAIN),
    "calls.summaries": (
        "summary metrics",
        "calls whose summary is not that of their rows",
        "SELECT summarize_call(session_id_of('SID')), if its rows are right (see row counts)",
    ),
    "calls.transcripts": ("transcripts", "calls whose transcript is not that of their messages", _AGAIN),
    "calls.sequences": (
        "sequences",
        "calls with events that are not numbered 1, 2, 3 …",
        "SELECT number_events('TABLE', session_id_of('SID')), if no row is missing (see row counts)",
    ),
    "calls.chunk_texts": ("chunk texts", "calls that retrieved chunks whose text is gone", _AGAIN),
    "calls.orphans": (
        "orphans",
        "rows of calls that are not there",
        "restore the calls from a backup, or DELETE these rows if their calls were deleted by hand",
    ),
    "tenants.children": (
        "tenants of rows",
        "calls with rows under another tenant",
        "UPDATE the rows' tenant_id to their call's: else its tenant does not see them, and another one does",
    ),
    "money.calls": (
        "costs of calls",
        "calls whose costs do not add up",
        "correct call_cost_breakdowns by call_cost_events; `session-bridge rates list` has the rates",
    ),
}


@dataclass(slots=True)
class Findings:
    """What was found wrong, by check: each a call SID, or a table with a session id."""

    looked: int = 0
    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CALL_CHECKS})


async def look_through(subject: Subject, progress: Progress) -> list[Line]:
    """Make the calls again from their rows, and hold them against what is stored."""
    findings = Findings()
    try:
        async with subject.snapshot() as archive:
            [[more, about]] = await archive.ask("how_many_calls", limit=subject.sample or 0)
            children: list[tuple[str, bool]] = [(name, tenant) for name, tenant in await archive.ask("children")]
        whole = subject.sample is None or more <= subject.sample
        total = int(about or 0) if subject.sample is None else min(more, subject.sample)
        pages = _all_calls(subject) if whole else _some_calls(subject, float(about or 1))
        async for ids in pages:
            async with subject.snapshot() as archive:
                await _look(archive, ids, children, findings)
            progress(findings.looked, max(total, findings.looked))
        async with subject.snapshot() as archive:
            for table, _ in children:
                parts = {"table": sql.Identifier(table)}
                _note_orphans(findings, table, await archive.ask_of("orphans_after", parts=parts))
    except BridgeError as error:
        return [line(name, title, why_not(error)) for name, (title, _, _) in CALL_CHECKS.items()]
    return [line(name, CALL_CHECKS[name][0], _answer(name, findings, whole=whole)) for name in CALL_CHECKS]


def _answer(name: str, findings: Findings, *, whole: bool) -> Answer:
    _, what, do = CALL_CHECKS[name]
    wrong = sorted(set(findings.wrong[name]))
    of = f"{'all' if whole else 'a sample of'} {findings.looked:,} calls"
    if wrong:
        return failed(f"{len(wrong):,} {what}: {some(wrong)} ({of})", do)
    return passed(f"right in {of}")


async def _all_calls(subject: Subject) -> AsyncIterator[list[UUID]]:
    after = UUID(int=0)
    while True:
        async with subject.snapshot() as archive:
            ids = [row[0] for row in await archive.ask("next_calls", after=after, limit=_PAGE)]
        if not ids:
            return
        yield ids
        after = ids[-1]


async def _some_calls(subject: Subject, about: float) -> AsyncIterator[list[UUID]]:
    wanted = subject.sample or 0
    share = min(0.5, wanted / max(about, 1.0))
    ids: list[UUID] = []
    async with subject.snapshot() as archive:
        while len(ids) < wanted and share < 1:
            # Whole pages of the table are drawn, with some to spare; of few pages chance may still draw too few.
            share = min(1.0, 2 * share)
            ids = [row[0] for row in await archive.ask("some_calls", percent=100 * share, limit=wanted)]
    for first in range(0, len(ids), _PAGE):
        yield ids[first : first + _PAGE]


async def _look(archive: Reading, ids: list[UUID], children: list[tuple[str, bool]], findings: Findings) -> None:
    wrong = findings.wrong
    for row in await archive.ask("stored_and_recomputed", ids=ids):
        sid, vast, partial, stored, summary, counts_hold, digest_holds, transcript_holds, book_holds = row
        findings.looked += 1
        for name, holds in (
            ("calls.row_counts", counts_hold),
            ("calls.digests", digest_holds),
            ("calls.transcripts", transcript_holds),
            ("calls.book", book_holds),
        ):
            if not holds:
                wrong[name].append(sid)
        if differing(_numbers(stored), _numbers(summary), vast=vast, partial=partial):
            wrong["calls.summaries"].append(sid)
    for name, statement in (
        ("calls.sequences", "broken_sequences"),
        ("calls.chunk_texts", "chunks_without_text"),
        ("money.calls", "untrue_sums"),
    ):
        wrong[name] += [row[0] for row in await archive.ask(statement, ids=ids)]
    before = [row[0] for row in await archive.ask("calls_before", ids=ids)]
    for table, has_tenant in children:
        parts = {"table": sql.Identifier(table)}
        _note_orphans(findings, table, await archive.ask_of("orphans_between", parts=parts, ids=ids, before=before))
        if has_tenant:
            [[count, sid]] = await archive.ask_of("strangers_in", parts=parts, ids=ids)
            wrong["tenants.children"] += [f"{sid} in {table}"] if count else []


def _note_orphans(findings: Findings, table: str, rows: list[tuple[Any, ...]]) -> None:
    [[count, session_id]] = rows
    if count:
        findings.wrong["calls.orphans"].append(f"{table} of {session_id}")


def _numbers(document: str) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(document, parse_float=Decimal, parse_int=Decimal)
    return numbers


def differing(
    stored: dict[str, Any], summary: dict[str, Any], *, vast: bool = False, partial: bool = False
) -> list[str]:
    """The summary columns that are not what the rows come to.

    A duration is left out of a partial call: its times may make no sense. Averages are of binary fractions, and sums of
    them depend on the order.
    """
    return [
        name
        for name in _compared(vast=vast)
        if not _same(stored[name], summary[name], exact=name == "total_cost_cents")
        and not (name == "duration_seconds" and partial and stored[name] is None)
    ]


def _compared(*, vast: bool) -> Iterable[str]:
    return [name for name in SUMMARY_COLUMNS if not (vast and name in _AVERAGES)]


def _same(one: Decimal | None, other: Decimal | None, *, exact: bool) -> bool:
    if one is None or other is None:
        return one is other
    return one == other if exact else abs(one - other) <= _ALIKE * max(Decimal(1), abs(one), abs(other))
