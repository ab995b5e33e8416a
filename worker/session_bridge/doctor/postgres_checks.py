"""Whether PostgreSQL can take the archive, and keeps what it has acknowledged."""

from __future__ import annotations

from datetime import date
from typing import Any, LiteralString

from session_bridge.archive.connection import Connection
from session_bridge.archive.migration_connection import OLDEST_SERVER
from session_bridge.archive.migrations import require_current
from session_bridge.archive.partitions import COUNTED_ROWS, PartitionStatus, partition_status
from session_bridge.contract.ids import now
from session_bridge.doctor.checks import (
    Answer,
    Check,
    Patient,
    advice,
    answering,
    is_loopback,
    ok,
    problem,
    spell,
)
from session_bridge.doctor.pooler import find_pooler
from session_bridge.errors import SchemaError, UnsupportedServerError

_MONTHS = 3  # this one and the two after it
_TABLES_NAMED = 3

# What a setting is for this role and database, before a transaction of ours sets its own.
_SETTINGS = "SELECT name, reset_val FROM pg_settings WHERE name = ANY (%s)"
_ROLE = "SELECT rolsuper, rolname FROM pg_roles WHERE rolname = current_user"
_LACKING = """\
SELECT relname || ': ' || string_agg(wanted, ', ')
FROM pg_class
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)
    AND relname IN ('call_sids', 'call_sessions', 'call_messages', 'dead_sessions', 'call_session_rejects')
    AND NOT has_table_privilege(oid, wanted)
GROUP BY relname ORDER BY relname"""
_OWNER = """\
SELECT pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner) FROM pg_class
WHERE relname = 'call_sessions' AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""
_ABOVE = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
_MAKES_MONTHS = """\
SELECT has_function_privilege(oid, 'EXECUTE') FROM pg_proc
WHERE proname = 'create_monthly_partition' AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"""
_EXPOSED = "SELECT what, problem FROM archive_exposures()"
_READ_ONLY = "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'"


async def _answers(patient: Patient) -> Answer:
    return await answering(patient.postgres_or_absent, lambda: patient.postgres.execute("SELECT 1"), "PostgreSQL")


async def _version(patient: Patient) -> Answer:
    settings = await _settings(patient, "server_version", "server_version_num")
    found = f"PostgreSQL {settings['server_version']}"
    if int(settings["server_version_num"]) < OLDEST_SERVER * 10_000:
        return problem(found, f"upgrade the server to PostgreSQL {OLDEST_SERVER} or newer")
    return ok(found)


async def _writable(patient: Patient) -> Answer:
    [recovering, read_only] = await _row(patient.postgres, _READ_ONLY)
    if recovering:
        return problem("this server is a standby: it only reads", "point DATABASE_URL at the primary")
    if read_only:
        return problem(
            "default_transaction_read_only is on", "switch it off for this role, or look at why it was switched on"
        )
    return ok("it is a primary, and takes writes")


async def _durable(patient: Patient) -> Answer:
    settings = await _settings(patient, "fsync", "synchronous_commit", "full_page_writes")
    off = [name for name, value in settings.items() if value == "off"]
    if off:
        return problem(
            f"{', '.join(off)} off: a call may be gone from Redis when a crash takes it from PostgreSQL",
            "; ".join(f"ALTER SYSTEM SET {name} = on" for name in off) + " (and for this role, if set there); reload",
        )
    return ok(f"what is committed is on disk (synchronous_commit {settings['synchronous_commit']})")


async def _migrations(patient: Patient) -> Answer:
    try:
        await require_current(patient.postgres, patient.settings.db_schema)
    except (SchemaError, UnsupportedServerError) as error:
        found, _, do = str(error).partition(": ")
        return problem(f"schema {patient.settings.db_schema}: {found}", do or "run `session-bridge migrate`")
    return ok(f"schema {patient.settings.db_schema} is at the version this worker needs")


async def _months_ahead(patient: Patient) -> Answer:
    statuses = await _partitions(patient)
    first = now().year * 12 + now().month - 1
    months = [date(month // 12, month % 12 + 1, 1) for month in range(first, first + _MONTHS)]
    missing = [(month, status.table) for month in months for status in statuses if month not in status.months]
    if not missing:
        return ok(f"{len(statuses)} tables have partitions up to {months[-1]:%Y-%m} and maybe further")
    found = f"{len(missing)} partitions are missing, the first is {missing[0][1]} of {missing[0][0]:%Y-%m}"
    do = "start a worker, which makes them, or run SELECT create_monthly_partitions() as the tables' owner"
    return advice(found, do) if missing[0][0] == months[-1] else problem(found, do)


async def _defaults_empty(patient: Patient) -> Answer:
    filled = [status for status in await _partitions(patient) if status.default_rows]
    if not filled:
        return ok("every row is in its month")
    shown = [
        f"{status.table}_default {'more than ' if status.default_rows > COUNTED_ROWS else ''}"
        f"{min(status.default_rows, COUNTED_ROWS)}"
        for status in filled[:_TABLES_NAMED]
    ]
    found = f"rows outside of all months: {', '.join(shown)}{', …' if len(filled) > _TABLES_NAMED else ''}"
    do = f"SELECT create_monthly_partition('{filled[0].table}', <a day of their month>) moves them into their month"
    return advice(found, do)


async def _time_limits(patient: Patient) -> Answer:
    settings = await _settings(
        patient,
        "statement_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "idle_session_timeout",
    )
    limits = {name: int(value) / 1000 for name, value in settings.items() if int(value)}
    ours = patient.settings.transaction_seconds
    short = [f"{name} {spell(limit)}" for name, limit in limits.items() if limit < ours]
    do = "ALTER ROLE … SET them to 0: a drain has its own limits, but migrations and partitions run under the role's"
    if short:
        return advice(f"shorter than a drain's limit of {spell(ours)}: {', '.join(short)}", do)
    if "idle_session_timeout" in limits:
        return advice(f"idle_session_timeout {spell(limits['idle_session_timeout'])} cuts workers that wait", do)
    return ok(f"none is shorter than a drain's own, {spell(ours)}")


async def _encrypted(patient: Patient) -> Answer:
    info = patient.postgres.info
    if is_loopback(info.host):
        return ok("on this machine")
    if not patient.postgres.pgconn.ssl_in_use:
        return advice("the way to PostgreSQL is not encrypted", "add sslmode=verify-full to DATABASE_URL")
    mode = info.get_parameters().get("sslmode", "prefer")
    if mode not in ("verify-full", "verify-ca"):
        return advice(
            f"encrypted (sslmode={mode}), but whoever stands between can pose as the server",
            "add sslmode=verify-full and sslrootcert=… to DATABASE_URL",
        )
    return ok(f"encrypted (sslmode={mode})")


async def _rights(patient: Patient) -> Answer:
    schema = patient.settings.db_schema
    [superuser, role] = await _row(patient.postgres, _ROLE)
    if superuser:
        return advice(
            f"role {role} is a superuser", "give the worker a role that owns the archive's schema and nothing else"
        )
    lacking = await (await patient.postgres.execute(_LACKING, (schema,))).fetchall()
    if lacking:
        found = "; ".join(row[0] for row in lacking)
        return problem(f"role {role} may not {found}", f"GRANT them on the tables of {schema} to {role}")
    owned = await (await patient.postgres.execute(_OWNER, (schema,))).fetchone()
    above = await (await patient.postgres.execute(_ABOVE)).fetchone()
    if owned and not owned[0] and above and not above[0]:
        return problem(
            f"role {role} is under row level security, which takes no COPY: the tables belong to {owned[1]}",
            f"ALTER ROLE {role} BYPASSRLS, or let the worker connect as {owned[1]}",
        )
    makes = await (await patient.postgres.execute(_MAKES_MONTHS, (schema,))).fetchone()
    if owned and not owned[0] and not (makes and makes[0]):
        return advice(
            f"role {role} may write, but not make partitions: the tables belong to {owned[1]}",
            "make it a member of the archive's writer (session-bridge roles), "
            "or let their owner run SELECT create_monthly_partitions() every month",
        )
    return ok(f"role {role} may do what it needs, and is no superuser")


async def _closed(patient: Patient) -> Answer:
    async with patient.archive() as connection:
        open_ones = await (await connection.execute(_EXPOSED)).fetchall()
    if open_ones:
        shown = "; ".join(f"{what}: {why}" for what, why in open_ones[:_TABLES_NAMED])
        more = "; …" if len(open_ones) > _TABLES_NAMED else ""
        return problem(f"{shown}{more}", "session-bridge roles shows all; session-bridge roles grant closes the tables")
    return ok("every table has row level security, and nothing else shows calls to others")


async def _settings(patient: Patient, *names: str) -> dict[str, str]:
    rows = await (await patient.postgres.execute(_SETTINGS, (list(names),))).fetchall()
    return dict(rows)


async def _partitions(patient: Patient) -> list[PartitionStatus]:
    async with patient.archive() as connection:
        return await partition_status(connection, patient.settings.db_schema)


async def _row(connection: Connection, query: LiteralString) -> tuple[Any, ...]:
    [row] = await (await connection.execute(query)).fetchall()
    return row


POSTGRES_CHECKS = (
    Check("postgres.answers", "PostgreSQL answers", _answers),
    Check("postgres.pooler", "pooler", find_pooler),
    Check("postgres.version", "PostgreSQL version", _version),
    Check("postgres.writable", "PostgreSQL takes writes", _writable),
    Check("postgres.durability", "durability", _durable),
    Check("postgres.migrations", "migrations", _migrations),
    Check("postgres.partitions", "partitions ahead", _months_ahead),
    Check("postgres.defaults", "default partitions", _defaults_empty),
    Check("postgres.limits", "time limits of the role", _time_limits),
    Check("postgres.tls", "TLS to PostgreSQL", _encrypted),
    Check("postgres.rights", "rights of the role", _rights),
    Check("postgres.tenants", "who may read", _closed),
)
"""In the order in which they are shown."""
