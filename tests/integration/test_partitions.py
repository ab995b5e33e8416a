"""Months on a real server: what lands where, and that making one is in nobody's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from session_bridge.archive.migrations import migrate
from session_bridge.archive.partitions import COUNTED_ROWS, PartitionStatus, ensure_partitions, partition_status
from session_bridge.contract import ids
from session_bridge.errors import ArchiveUnavailableError, SchemaError

FAR = date(2041, 5, 1)
FAR_MOMENT = datetime(2041, 5, 17, 12, tzinfo=UTC)

PARTITIONED = """\
SELECT class.relname FROM pg_partitioned_table JOIN pg_class AS class ON class.oid = partrelid
WHERE relnamespace = 'public'::regnamespace ORDER BY 1"""
UNIQUE_KEYS = """\
SELECT key.relname, array_agg(part.attname ORDER BY place.ordinality), owner.oid::regclass::text
FROM pg_index
JOIN pg_class AS key ON key.oid = indexrelid
JOIN pg_class AS owner ON owner.oid = indrelid AND owner.relkind = 'p'
JOIN pg_partitioned_table AS partitioned ON partrelid = owner.oid
JOIN pg_attribute AS partition_key ON partition_key.attrelid = owner.oid AND partition_key.attnum = partattrs[0]
CROSS JOIN LATERAL unnest(indkey) WITH ORDINALITY AS place (attnum, ordinality)
JOIN pg_attribute AS part ON part.attrelid = owner.oid AND part.attnum = place.attnum
WHERE indisunique AND owner.relnamespace = 'public'::regnamespace AND partition_key.atttypid = 'uuid'::regtype
GROUP BY 1, 3"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as opened:
        yield opened


async def value(connection: AsyncConnection[Any], query: str, *parameters: object) -> Any:
    row = await (await connection.execute(query.encode(), parameters or None)).fetchone()
    assert row is not None
    return row[0]


async def add_analysis(connection: AsyncConnection[Any], moment: datetime) -> str:
    """Insert a row of that moment; the partition it went to."""
    insert = "INSERT INTO call_analysis (session_id, data) VALUES (%s, '{}') RETURNING tableoid::regclass::text"
    return str(await value(connection, insert, ids.uuid7(moment)))


def months_around(moment: datetime, back: int = 2, ahead: int = 3) -> list[date]:
    first = moment.year * 12 + moment.month - 1
    return [date(month // 12, month % 12 + 1, 1) for month in range(first - back, first + ahead + 1)]


def partition_name(table: str, month: date) -> str:
    return f"{table}_y{month:%Y}m{month:%m}"


async def tables(connection: AsyncConnection[Any]) -> list[str]:
    return [name for (name,) in await (await connection.execute(PARTITIONED)).fetchall()]


async def status_of(connection: AsyncConnection[Any], table: str) -> PartitionStatus:
    return next(status for status in await partition_status(connection, "public") if status.table == table)


async def test_every_partitioned_table_has_the_first_months_and_a_default(connection: AsyncConnection[Any]) -> None:
    statuses = await partition_status(connection, "public")
    assert [status.table for status in statuses] == await tables(connection)
    assert len(statuses) >= 17
    for status in statuses:
        assert list(status.months) == months_around(ids.now())
        assert status.default_rows == 0
        assert await value(connection, "SELECT to_regclass(%s) IS NOT NULL", f"{status.table}_default")


async def test_makes_what_is_missing_and_says_so(connection: AsyncConnection[Any]) -> None:
    assert await ensure_partitions(connection, "public") == []
    wanted = set(months_around(ids.now(), 3, 5)) - set(months_around(ids.now()))
    expected = {partition_name(table, month) for table in await tables(connection) for month in wanted}
    assert set(await ensure_partitions(connection, "public", months_ahead=5, months_back=3)) == expected
    assert await ensure_partitions(connection, "public", months_ahead=5, months_back=3) == []
    assert list((await status_of(connection, "call_events")).months) == months_around(ids.now(), 3, 5)


async def test_another_schema(empty_database_url: str) -> None:
    schema = 'A "weird" schema'
    migrate(empty_database_url, schema)
    async with await AsyncConnection.connect(empty_database_url) as connection:
        made = await ensure_partitions(connection, schema, months_ahead=4)
        statuses = await partition_status(connection, schema)
    assert len(made) == len(statuses) >= 17
    assert all(list(status.months) == months_around(ids.now(), ahead=4) for status in statuses)


async def test_leaves_an_applications_own_partitions_alone(connection: AsyncConnection[Any]) -> None:
    await connection.execute("CREATE TABLE audit (session_id uuid) PARTITION BY RANGE (session_id)")
    await connection.execute("CREATE TABLE audit_default PARTITION OF audit DEFAULT")
    made = await ensure_partitions(connection, "public", months_ahead=4)
    assert made
    assert not [name for name in made if name.startswith("audit")]
    assert "audit" not in {status.table for status in await partition_status(connection, "public")}


async def test_a_month_is_exact_to_the_millisecond(connection: AsyncConnection[Any]) -> None:
    await connection.execute("SET timezone = 'Pacific/Auckland'")
    month, following = months_around(ids.now())[2:4]
    first = datetime(following.year, following.month, 1, tzinfo=UTC)
    assert await add_analysis(connection, first - timedelta(milliseconds=1)) == partition_name("call_analysis", month)
    assert await add_analysis(connection, first) == partition_name("call_analysis", following)
    floor = await value(connection, "SELECT session_id_floor(%s)", first)
    insert = "INSERT INTO call_analysis (session_id, data) VALUES (%s, '{}') RETURNING tableoid::regclass::text"
    assert await value(connection, insert, floor) == partition_name("call_analysis", following)
    assert await value(connection, insert, type(floor)(int=floor.int - 1)) == partition_name("call_analysis", month)


@pytest.mark.parametrize("day", [FAR, date(2041, 5, 31), date(2041, 12, 31), date(2040, 2, 29), date(1970, 1, 1)])
async def test_any_day_of_a_month_names_it(connection: AsyncConnection[Any], day: date) -> None:
    made = await value(connection, "SELECT create_monthly_partition('call_analysis', %s)", day)
    assert made == partition_name("call_analysis", day)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    assert await add_analysis(connection, noon) == made


@pytest.mark.parametrize("moment", ["1900-01-01Z", "-infinity", "infinity", "12000-01-01Z"])
async def test_the_floor_of_a_moment_no_id_can_have(connection: AsyncConnection[Any], moment: str) -> None:
    floor = await value(connection, "SELECT session_id_floor(%s::timestamptz)::text", moment)
    assert floor[:13] == ("00000000-0000" if moment in {"1900-01-01Z", "-infinity"} else "ffffffff-ffff")


async def test_rows_of_a_far_month_wait_in_the_default_one_and_move(connection: AsyncConnection[Any]) -> None:
    # A generated column cannot be copied, and others may add one.
    await connection.execute("ALTER TABLE call_analysis ADD words text GENERATED ALWAYS AS (lower(summary)) STORED")
    wait = [FAR_MOMENT + timedelta(days=day) for day in range(-30, 31, 5)]
    for moment in wait:
        assert await add_analysis(connection, moment) == "call_analysis_default"
    await connection.execute("UPDATE call_analysis SET summary = 'Paid'")
    assert (await status_of(connection, "call_analysis")).default_rows == len(wait)

    made = await value(connection, "SELECT create_monthly_partition('call_analysis', %s)", FAR)
    assert made == "call_analysis_y2041m05"
    of_may = [moment for moment in wait if moment.month == FAR.month]
    assert 0 < len(of_may) < len(wait)
    assert await value(connection, f"SELECT count(*) FROM {made} WHERE words = 'paid'") == len(of_may)
    status = await status_of(connection, "call_analysis")
    assert status.default_rows == len(wait) - len(of_may)
    assert FAR in status.months
    assert await value(connection, "SELECT count(*) FROM call_analysis") == len(wait)


async def test_chunk_texts_move_by_their_date(connection: AsyncConnection[Any]) -> None:
    insert = "INSERT INTO rag_chunk_contents VALUES (%s, 't', %s, 'text') RETURNING tableoid::regclass::text"
    for month in (date(2041, 4, 1), FAR, date(2041, 6, 1)):
        assert await value(connection, insert, month, str(month).encode()) == "rag_chunk_contents_default"
    await connection.execute("SET datestyle = 'SQL, DMY'")
    made = await value(connection, "SELECT create_monthly_partition('rag_chunk_contents', %s)", FAR)
    assert await value(connection, f"SELECT array_agg(month) FROM {made}") == [FAR]
    assert (await status_of(connection, "rag_chunk_contents")).default_rows == 2


async def test_a_default_partition_is_counted_up_to_a_bound(connection: AsyncConnection[Any]) -> None:
    await connection.execute(
        "INSERT INTO call_analysis (session_id, data) SELECT session_id_floor("
        "'2041-05-01Z'::timestamptz + number * interval '1 ms'), '{}' FROM generate_series(0, 10500) AS number"
    )
    assert (await status_of(connection, "call_analysis")).default_rows == COUNTED_ROWS + 1


async def test_a_partition_has_each_index_of_its_table(connection: AsyncConnection[Any]) -> None:
    await ensure_partitions(connection, "public", months_ahead=4)
    lacking = await connection.execute(
        "SELECT part.inhrelid::regclass, parent.indexrelid::regclass "
        "FROM pg_index AS parent "
        "JOIN pg_partitioned_table ON partrelid = parent.indrelid "
        "JOIN pg_inherits AS part ON part.inhparent = parent.indrelid "
        "WHERE NOT EXISTS (SELECT FROM pg_inherits AS attached JOIN pg_index AS child ON indexrelid = inhrelid "
        "                  WHERE inhparent = parent.indexrelid AND child.indrelid = part.inhrelid AND indisvalid)"
    )
    assert await lacking.fetchall() == []


@pytest.mark.parametrize("missing", ["a coming month", "the present month"])
async def test_a_long_reader_stops_neither_a_writer_nor_the_other_tables(
    connection: AsyncConnection[Any], database_url: str, missing: str
) -> None:
    months = months_around(ids.now(), 0, 4)
    wanted = months[4] if missing == "a coming month" else months[0]
    expected = {partition_name(table, wanted) for table in await tables(connection)}
    if missing == "the present month":
        await connection.execute(f"DROP TABLE {', '.join(expected)}".encode())
    mine = partition_name("call_analysis", wanted)
    waited: list[float] = []
    done = asyncio.Event()

    async def write() -> None:
        async with await AsyncConnection.connect(database_url, autocommit=True) as writer:
            while not done.is_set():
                for moment in (ids.now(), FAR_MOMENT):
                    began = time.monotonic()
                    await add_analysis(writer, moment)
                    waited.append(time.monotonic() - began)

    async with await AsyncConnection.connect(database_url) as reader:
        await reader.execute("SELECT count(*) FROM call_analysis")
        writers = [asyncio.create_task(write()) for _ in range(2)]
        began = time.monotonic()
        ahead = 4 if missing == "a coming month" else 3
        assert set(await ensure_partitions(connection, "public", ahead)) == expected - {mine}
        assert time.monotonic() - began < 5
        # The reader is still there; half a second of patience is the longest that anybody stood behind it.
        await reader.rollback()
    assert max(waited) < 1.5
    assert len(waited) > 10

    assert await ensure_partitions(connection, "public", ahead) == [mine]
    done.set()
    await asyncio.gather(*writers)
    assert await value(connection, "SELECT count(*) FROM call_analysis") == len(waited)
    assert (await status_of(connection, "call_analysis")).default_rows == len(waited) // 2


async def test_the_sql_function_skips_a_table_in_use(connection: AsyncConnection[Any], database_url: str) -> None:
    create = "SELECT array_agg(made ORDER BY made) FROM create_monthly_partitions(5) AS made"
    async with await AsyncConnection.connect(database_url) as reader:
        await reader.execute("SELECT count(*) FROM call_analysis")
        made = await value(connection, create)
    assert len(made) == 2 * (len(await tables(connection)) - 1)
    assert not [name for name in made if name.startswith("call_analysis")]
    assert len(await value(connection, create)) == 2
    assert await value(connection, create) is None


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_several_workers_at_once_make_each_month_once(database_url: str, isolation: str) -> None:
    async def work() -> list[str]:
        async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
            return await ensure_partitions(connection, "public", months_ahead=8)

    made = [name for names in await asyncio.gather(*(work() for _ in range(5))) for name in names]
    assert len(made) == len(set(made))
    async with await AsyncConnection.connect(database_url) as connection:
        assert len(made) == 5 * len(await tables(connection))
        assert await ensure_partitions(connection, "public", months_ahead=8) == []


async def test_months_are_made_under_copies(connection: AsyncConnection[Any], database_url: str) -> None:
    done = asyncio.Event()
    copies = {
        b"COPY call_analysis (session_id, data) FROM STDIN": ["{}"],
        b"COPY call_transcripts (session_id, transcript_text, transcript_data) FROM STDIN": ["", "{}"],
    }

    async def drain() -> int:
        rows = 0
        async with await AsyncConnection.connect(database_url) as writer:
            while not done.is_set():
                # One call of now and one whose month is being made, in two tables, as a drain would have them.
                for copy, rest in copies.items():
                    async with writer.cursor() as cursor, cursor.copy(copy) as stream:
                        for moment in (ids.now(), FAR_MOMENT):
                            await stream.write_row([ids.uuid7(moment), *rest])
                            rows += 1
                await writer.commit()
        return rows

    drains = [asyncio.create_task(drain()) for _ in range(3)]
    create = "SELECT create_monthly_partition(%s, %s)"
    for month in range(1, 13):
        for table in ("call_analysis", "call_transcripts"):
            await asyncio.sleep(0.02)
            await connection.execute(create, (table, date(2041, month, 1)))
    done.set()
    written = sum(await asyncio.gather(*drains))
    assert written > 100
    for table in ("call_analysis", "call_transcripts"):
        assert await value(connection, f"SELECT count(*) FROM {table}") == written // 2
        assert (await status_of(connection, table)).default_rows == 0
    assert await value(connection, "SELECT count(*) FROM call_analysis_y2041m05") == written // 4


async def test_a_name_that_is_taken_is_said_after_the_rest_is_made(connection: AsyncConnection[Any]) -> None:
    month = months_around(ids.now(), ahead=4)[-1]
    await connection.execute(f"CREATE TABLE {partition_name('call_analysis', month)} (theirs integer)".encode())
    with pytest.raises(SchemaError, match=rf"call_analysis for {month:%Y-%m} could not be made \(relation .* exists"):
        await ensure_partitions(connection, "public", months_ahead=4)
    assert await ensure_partitions_of_others(connection) == []


async def ensure_partitions_of_others(connection: AsyncConnection[Any]) -> list[str]:
    missing = await connection.execute(
        "SELECT parent FROM missing_monthly_partitions(4) WHERE parent <> 'call_analysis'"
    )
    return [name for (name,) in await missing.fetchall()]


async def test_before_the_migration_it_says_so(empty_database_url: str) -> None:
    async with await AsyncConnection.connect(empty_database_url) as connection:
        with pytest.raises(SchemaError, match="session-bridge migrate"):
            await ensure_partitions(connection, "public")


async def test_a_lost_connection_is_the_servers_trouble(connection: AsyncConnection[Any], database_url: str) -> None:
    async with await AsyncConnection.connect(database_url, autocommit=True) as killer:
        await killer.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    with pytest.raises(ArchiveUnavailableError):
        await ensure_partitions(connection, "public")


async def test_a_role_that_may_not_create_is_told_who_may(connection: AsyncConnection[Any]) -> None:
    # Roles belong to the server and outlive this database.
    await connection.execute("CREATE ROLE partitions_writer")
    try:
        await connection.execute("GRANT SELECT ON session_bridge_partitioned_tables TO partitions_writer")
        await connection.execute("SET ROLE partitions_writer")
        with pytest.raises(SchemaError, match=r"let their owner run `SELECT create_monthly_partitions\(\)`"):
            await ensure_partitions(connection, "public", months_ahead=4)
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute("DROP OWNED BY partitions_writer")
        await connection.execute("DROP ROLE partitions_writer")


async def test_a_month_belongs_to_the_owner_of_its_table(connection: AsyncConnection[Any]) -> None:
    # pg_cron may run as a superuser; the owner must still be able to drop what it made.
    await connection.execute("CREATE ROLE partitions_owner")
    try:
        await connection.execute("GRANT CREATE ON SCHEMA public TO partitions_owner")
        await connection.execute("ALTER TABLE call_analysis OWNER TO partitions_owner")
        made = await value(connection, "SELECT create_monthly_partition('call_analysis', %s)", FAR)
        owner = "SELECT relowner::regrole::text FROM pg_class WHERE relname = %s"
        assert await value(connection, owner, made) == "partitions_owner"
    finally:
        await connection.execute("DROP OWNED BY partitions_owner CASCADE")
        await connection.execute("DROP ROLE partitions_owner")


async def test_each_unique_key_begins_with_the_session(connection: AsyncConnection[Any]) -> None:
    keys = await (await connection.execute(UNIQUE_KEYS)).fetchall()
    assert len(keys) >= 16
    assert {(table, key[0]) for _, key, table in keys} == {
        (table, "id" if table == "call_sessions" else "session_id")
        for table in await tables(connection)
        if table != "rag_chunk_contents"
    }


def relations(plan: dict[str, Any]) -> list[str]:
    here = [plan["Relation Name"]] if "Relation Name" in plan else []
    return here + [name for below in plan.get("Plans", []) for name in relations(below)]


async def relations_read(connection: AsyncConnection[Any], query: str) -> list[str]:
    (explained,) = await value(connection, f"EXPLAIN (FORMAT JSON) {query}")
    return relations(explained["Plan"])


@pytest.mark.parametrize("form", ["literal", "generic"])
async def test_a_query_by_session_reads_one_partition(connection: AsyncConnection[Any], form: str) -> None:
    session = ids.uuid7(ids.now())
    month = datetime.fromtimestamp((session.int >> 80) / 1000, UTC).date()
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    for table in await tables(connection):
        if table == "rag_chunk_contents":
            continue
        key = "id" if table == "call_sessions" else "session_id"
        query = f"SELECT * FROM {table} WHERE {key} = '{session}'"
        if form == "generic":
            await connection.execute(f"PREPARE one_{table} (uuid) AS SELECT * FROM {table} WHERE {key} = $1".encode())
            query = f"EXECUTE one_{table} ('{session}')"
        assert await relations_read(connection, query) == [partition_name(table, month)]


async def test_a_range_of_a_month_reads_one_partition(connection: AsyncConnection[Any]) -> None:
    month, following = months_around(ids.now())[2:4]
    query = (
        f"SELECT * FROM call_sessions WHERE id >= session_id_floor('{month} 00:00Z') "
        f"AND id < session_id_floor('{following} 00:00Z')"
    )
    assert await relations_read(connection, query) == [partition_name("call_sessions", month)]


async def test_the_month_of_a_session_in_sql(connection: AsyncConnection[Any]) -> None:
    await connection.execute("SET timezone = 'Pacific/Auckland'")
    for moment in (datetime(2026, 11, 30, 23, 59, 59, 999000, UTC), datetime(2026, 12, 1, tzinfo=UTC)):
        found = await value(connection, "SELECT session_month(%s)", ids.uuid7(moment))
        assert found == moment.date().replace(day=1)


def test_the_archives_months_follow_its_migrations(database_url: str) -> None:
    migrate(database_url, to=1)
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT count(*) FROM pg_inherits JOIN pg_partitioned_table ON partrelid = inhparent")
        assert left.fetchone() == (0,)
    migrate(database_url)
