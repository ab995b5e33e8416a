"""Whether everything is there that an archive is made of."""

from __future__ import annotations

from collections.abc import Collection

from psycopg import sql

from session_bridge.errors import SchemaError, UnsupportedServerError
from session_bridge.verify.checks import Answer, Check, Subject, failed, passed, skipped, some
from session_bridge.verify.expected import does_something, expected

_TENANTS = 7
_RESTORE = "restore it from a backup's schema, or make it again by hand as `session-bridge migrate --sql` has it"
_REFRESHES_MISSED = 3
_LEAST_PATIENCE = 900.0


async def _migrations(subject: Subject) -> Answer:
    try:
        await subject.connections.require_current()
    except (SchemaError, UnsupportedServerError) as error:
        return failed(str(error), "do as it says, then verify again")
    return passed("applied, each with the text that this version has")


async def _identity(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        identities = [row[0] for row in await archive.ask("identities")]
    if len(identities) != 1:
        return failed(
            f"the table session_bridge_archive has {len(identities)} rows, and must have one",
            "restore it from a backup: without it a worker cannot tell its archive from another",
        )
    if subject.no_redis:
        return passed(f"{identities[0]}; {subject.no_redis}")
    bound = await subject.bridge.redis.get(subject.bridge.keys.archive)
    if bound is None:
        return passed(f"{identities[0]}; no namespace of this Redis is bound to it yet")
    if bound.decode() != identities[0]:
        return failed(
            f"this is archive {identities[0]}, and the sessions in Redis belong to {bound.decode()}",
            "correct one of the two addresses, or, if the archive was moved on purpose, run `session-bridge adopt`",
        )
    return passed(f"{identities[0]}, and the sessions in Redis belong to it")


async def _relations(subject: Subject, kinds: Collection[str]) -> set[str]:
    async with subject.snapshot() as archive:
        return {name for name, kind in await archive.ask("relations") if kind in kinds}


async def _tables(subject: Subject) -> Answer:
    wanted = expected()["TABLE"]
    missing = sorted(wanted - await _relations(subject, "rp"))
    return _all_there(wanted, missing)


async def _views(subject: Subject) -> Answer:
    wanted = expected()["VIEW"] | expected()["MATERIALIZED VIEW"]
    missing = sorted(expected()["VIEW"] - await _relations(subject, "v"))
    missing += sorted(expected()["MATERIALIZED VIEW"] - await _relations(subject, "m"))
    return _all_there(wanted, missing)


async def _functions(subject: Subject) -> Answer:
    wanted = expected()["FUNCTION"]
    async with subject.snapshot() as archive:
        there = {row[0] for row in await archive.ask("functions")}
        firing = {row[0] for row in await archive.ask("triggers")}
    missing = sorted(wanted - there) + [f"trigger {name}" for name in sorted(expected()["TRIGGER"] - firing)]
    return _all_there([*wanted, *expected()["TRIGGER"]], missing)


async def _indexes(subject: Subject) -> Answer:
    wanted = expected()["INDEX"]
    missing = sorted(wanted - await _relations(subject, "iI"))
    return _all_there(wanted, missing)


async def _keys(subject: Subject) -> Answer:
    # A materialized view and the like have none; every table of ours has one, for without it nothing is told apart.
    wanted = sorted(expected()["TABLE"])
    async with subject.snapshot() as archive:
        missing = [row[0] for row in await archive.ask("without_key", tables=wanted)]
    if missing:
        return failed(
            f"no primary key on {some(missing)}",
            "remove rows that are there twice, then ADD PRIMARY KEY as `session-bridge migrate --sql` has it",
        )
    return passed(f"each of {len(wanted)} tables has its primary key")


def _all_there(wanted: Collection[str], missing: list[str]) -> Answer:
    if missing:
        return failed(f"missing: {some(missing)}", _RESTORE)
    return passed(f"all {len(wanted)} are there")


async def _valid(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        tables = sorted(expected()["TABLE"] | expected()["MATERIALIZED VIEW"])
        invalid = [row[0] for row in await archive.ask("invalid_indexes", tables=tables)]
    if invalid:
        return failed(
            f"written and never read, because they are invalid: {some(invalid)}",
            "REINDEX INDEX CONCURRENTLY each; a partitioned table's becomes valid with the last of its partitions'",
        )
    return passed("none")


async def _ahead(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        missing = [f"{parent} of {month:%Y-%m}" for parent, month in await archive.ask("missing_months")]
    if missing:
        return failed(
            f"no partition for {some(missing)}",
            "start a worker, which makes them, or SELECT create_monthly_partitions()",
        )
    return passed("this month and the next have theirs in every table")


async def _attached(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        apart = [row[0] for row in await archive.ask("unattached")]
    if apart:
        return failed(
            f"detached, so that nobody reads what is in them: {some(apart)}",
            "ALTER TABLE … ATTACH PARTITION them again, or drop them if their time is over",
        )
    return passed("every month that is there is attached")


async def _defaults(subject: Subject) -> Answer:
    filled = []
    async with subject.snapshot() as archive:
        defaults = await archive.ask("defaults")
        for _, name in defaults:
            if name is not None:
                [[holds]] = await archive.ask_of("holds_rows", parts={"table": sql.Identifier(name)})
                filled += [name] if holds else []
    if without := [table for table, name in defaults if name is None]:
        return failed(
            f"{some(without)} has none: a row of a month without a partition is refused, and its call with it",
            "CREATE TABLE …_default PARTITION OF … DEFAULT, or ATTACH the one that was detached",
        )
    if filled:
        return failed(
            f"rows of months without a partition lie in {some(filled)}",
            "SELECT create_monthly_partition('…', '…') for each month that has calls: its rows move into it",
        )
    return passed(f"all {len(defaults)} are there, and empty")


async def _row_security(subject: Subject) -> Answer:
    if not does_something(_TENANTS):
        return skipped("this version has no row level security yet: migration 0007 only keeps its place")
    async with subject.snapshot() as archive:
        open_to_all = [row[0] for row in await archive.ask("open_to_all", tables=sorted(expected()["TABLE"]))]
    if open_to_all:
        return failed(
            f"any reader sees every tenant's rows of {some(open_to_all)}",
            "ALTER TABLE … ENABLE ROW LEVEL SECURITY, and see that its policies are there",
        )
    return passed("on for every table that has a tenant")


async def _fresh(subject: Subject) -> Answer:
    patience = max(_REFRESHES_MISSED * subject.settings.refresh_seconds, _LEAST_PATIENCE)
    async with subject.snapshot() as archive:
        refreshes = await archive.ask("refreshes")
    known = {view for view, *_ in refreshes}
    stale = [
        view for view, age, populated, outdated in refreshes if not populated or (outdated and float(age) > patience)
    ]
    stale += sorted(expected()["MATERIALIZED VIEW"] - known)
    if stale:
        return failed(
            f"{some(stale)} without the latest calls: not refreshed for more than {patience / 60:.0f} minutes",
            "start a worker, which refreshes them, or SELECT * FROM refresh_archive_views()",
        )
    return passed(f"{len(refreshes)} views have every call of more than {patience / 60:.0f} minutes ago")


STRUCTURE_CHECKS = (
    Check("schema.migrations", "migrations", _migrations),
    Check("schema.identity", "archive identity", _identity),
    Check("schema.tables", "tables", _tables),
    Check("schema.keys", "primary keys", _keys),
    Check("schema.views", "views", _views),
    Check("schema.functions", "functions and triggers", _functions),
    Check("schema.indexes", "indexes", _indexes),
    Check("schema.invalid_indexes", "invalid indexes", _valid),
    Check("partitions.ahead", "partitions ahead", _ahead),
    Check("partitions.attached", "partitions attached", _attached),
    Check("partitions.default", "default partitions", _defaults),
    Check("tenants.row_security", "row level security", _row_security),
    Check("views.fresh", "materialized views", _fresh),
)
"""In the order in which they are shown."""
