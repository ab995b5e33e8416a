"""Whether the book of call SIDs, the archive and Redis agree on every call, and the accounts on every cent."""

from __future__ import annotations

from psycopg import sql

from session_bridge.doctor.checks import spell
from session_bridge.ledger import take_ledger
from session_bridge.verify.checks import Answer, Check, Subject, failed, passed, skipped, some

_OVERDUE_LEASES = 10


async def _duplicates(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        [[count, sid]] = await archive.ask("duplicate_entries")
    if count:
        return failed(
            f"{count:,} entries of call_sids are there twice or share a session, the first {sid}",
            "keep the entry whose session_id call_sessions has under this SID and generation, and delete the other",
        )
    return passed("none")


async def _entries(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        [[about]] = await archive.ask("rows_of")
        whole = subject.sample is None or about <= 100 * subject.sample
        percent = 100.0 if whole else 10_000.0 * (subject.sample or 1) / about
        sampled = sql.SQL("" if whole else "TABLESAMPLE SYSTEM ({})").format(sql.Literal(percent))
        [[count, sid]] = await archive.ask_of("entries_without_call", parts={"sampled": sampled})
    if count:
        return failed(
            f"{count:,} calls are archived as the book has it, and are not there, the first {sid}",
            "restore them from a backup; if they were deleted by hand, UPDATE call_sids SET state = 'retired'",
        )
    return passed(f"each has its call{'' if whole else ' (a sample)'}")


async def _dead(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        [[count, sid]] = await archive.ask("dead_without_session")
    if count:
        return failed(
            f"{count:,} calls are dead and dead_sessions does not have them, the first {sid}",
            "restore dead_sessions from a backup, or give up: UPDATE call_sids SET state = 'retired'",
        )
    return passed("each dead call has its fields kept")


async def _balance(subject: Subject) -> Answer:
    if subject.no_redis:
        return skipped(subject.no_redis)
    ledger = await take_ledger(subject.bridge)
    if not ledger.balances:
        return failed(
            f"of {ledger.opened:,} calls, these stand nowhere: {some(ledger.missing)}",
            "`session-bridge sweep` enters them as lost; look at evictions and TTLs (`session-bridge doctor`)",
        )
    return passed(f"each of {ledger.opened:,} calls stands in one place")


async def _stuck(subject: Subject) -> Answer:
    if subject.no_redis:
        return skipped(subject.no_redis)
    waiting = await subject.bridge.overview.waiting()
    limit = _OVERDUE_LEASES * subject.settings.lease_seconds
    if waiting.oldest_seconds > limit:
        return failed(
            f"{waiting.due:,} calls are due, the oldest for {spell(waiting.oldest_seconds)}",
            "start a worker, or look at the workers' log: `session-bridge doctor` says why they wait",
        )
    return passed(f"no call has been due for more than {spell(limit)}")


async def _credits(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        [[accounts], [entries]] = await archive.ask("untrue_balances")
    if accounts or entries:
        return failed(
            f"{accounts:,} balances are not the sum of their entries, {entries:,} entries do not follow the one before",
            "UPDATE user_credits to the sum of credit_transactions; change balances by grant_credits() alone",
        )
    return passed("every balance is the sum of its entries")


BOOK_CHECKS = (
    Check("book.duplicates", "duplicates in the book", _duplicates),
    Check("book.entries", "entries of the book", _entries),
    Check("book.dead", "dead calls", _dead),
    Check("book.balance", "books balance", _balance),
    Check("book.stuck", "stuck calls", _stuck),
    Check("money.credits", "credit accounts", _credits),
)
"""In the order in which they are shown."""
