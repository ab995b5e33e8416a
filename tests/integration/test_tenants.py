"""What a reader sees: of its own tenant all that is for readers, of every other nothing, whatever it tries.

What is tried is taken from the catalogue, so that a table, a view or a function that is made later is tried too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from session_bridge.archive.deletion import delete_call
from session_bridge.archive.migrations import migrate
from session_bridge.archive.partitions import ensure_partitions
from session_bridge.archive.refresh import refresh_views
from session_bridge.archive.roles import Reader, create_roles, let_read, roles, stop_reading
from session_bridge.contract import ids
from session_bridge.errors import RolesError

RELATIONS = """\
SELECT nspname, relname FROM pg_class JOIN pg_namespace AS home ON home.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname !~ '^(pg_|information_schema$)'
ORDER BY 1, 2"""
FUNCTIONS = """\
SELECT DISTINCT nspname, proname, (array(SELECT format_type(unnest(proargtypes), NULL)))[:given]
FROM pg_proc JOIN pg_namespace AS home ON home.oid = pronamespace
-- All that it takes, and only what it must have.
CROSS JOIN LATERAL unnest(ARRAY[pronargs, pronargs - pronargdefaults]) AS given
WHERE nspname !~ '^(pg_|information_schema$)' AND prokind = 'f' AND prorettype <> 'trigger'::regtype
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e')
ORDER BY 1, 2, 3"""

# How long a call has been running changes by itself.
WAYS = {
    "": "SELECT (to_jsonb(t) - 'running_seconds')::text FROM {} AS t",
    " by a function": "SELECT count(*) FROM {} AS t WHERE pg_temp.leak((to_jsonb(t) - 'running_seconds')::text)",
    " by COPY": "COPY (SELECT to_jsonb(t) - 'running_seconds' FROM {} AS t) TO STDOUT",
}
# A function that tells of each row it is asked about, and looks cheap: the planner would ask it first, if it might.
LEAK = """\
CREATE FUNCTION pg_temp.leak(seen text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
AS $$ BEGIN RAISE NOTICE '%', seen; RETURN true; END $$"""
# What would see everything, if the archive's own functions looked where the reader says.
SHADOWS = """\
CREATE FUNCTION pg_temp.reader_scope(OUT sees text, OUT tenant text, OUT whose text) LANGUAGE sql
AS $$ SELECT 'all', 'birch', 'birchwood' $$;
CREATE FUNCTION pg_temp.current_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'birch' $$;
CREATE TEMP TABLE session_bridge_readers AS SELECT session_user AS role_name, 'all' AS sees, NULL::text AS tenant_id,
    NULL::text AS user_id, NULL::text AS tenant_from, NULL::text AS user_from;
SET search_path = pg_temp, public, pg_catalog"""


class Prying:
    """A reader's connection, and everything it finds by trying."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True, row_factory=tuple_row)
        self.notices: list[str] = []
        self.connection.add_notice_handler(lambda notice: self.notices.append(notice.message_primary or ""))
        self.connection.execute(LEAK)

    def found(self, given: Sequence[str] = ()) -> dict[str, list[str]]:
        """What is in every relation, by reading it in several ways, and what every function answers to `given`."""
        connection = self.connection
        found: dict[str, list[str]] = {}
        for schema, name in connection.execute(RELATIONS).fetchall():
            for way, statement in WAYS.items():
                self.notices.clear()
                rows = self._rows(sql.SQL(statement).format(sql.Identifier(schema, name)))
                found[f"{schema}.{name}{way}"] = rows + sorted(self.notices)
        for schema, name, types in connection.execute(FUNCTIONS).fetchall():
            for text in given:
                arguments = [argument(type_, text) for type_ in types]
                call = sql.SQL("SELECT to_jsonb(t)::text FROM {}({}) AS t").format(
                    sql.Identifier(schema, name),
                    sql.SQL(", ").join(sql.SQL("%s::" + type_) for type_ in types),
                )
                # What it writes, if it may, is not kept.
                with connection.transaction(force_rollback=True):
                    found[f"{schema}.{name}({', '.join(types)}) of {text}"] = self._rows(call, arguments)
        return found

    def _rows(self, statement: sql.Composed, arguments: Sequence[Any] = ()) -> list[str]:
        """What a statement answers, or why it does not."""
        try:
            with self.connection.transaction(), self.connection.cursor() as cursor:
                if arguments or not statement.as_string().startswith("COPY"):
                    return sorted(str(row[0]) for row in cursor.execute(statement, arguments or None).fetchall())
                with cursor.copy(statement) as copy:
                    return sorted(bytes(block).decode() for block in copy)
        except psycopg.Error as error:
            return [f"{error.sqlstate}: {error.diag.message_primary}"]

    def close(self) -> None:
        self.connection.close()


def argument(type_: str, text: str) -> Any:
    """Something of this type, as telling as can be."""
    if type_ in ("text", "name", "character varying"):
        return text
    if type_ == "uuid":
        return text if len(text) == len(str(uuid4())) and text.count("-") == 4 else None
    return {
        "text[]": [text],
        "uuid[]": [],
        "real[]": [0.1] * 8,
        "jsonb": json.dumps({"call_sid": text, "user_id": text}),
        "json": "{}",
        "integer": 10,
        "bigint": 10,
        "numeric": 1,
        "boolean": True,
        "date": "2026-11-01",
        "interval": "1 day",
        "regclass": "call_sessions",
        "timestamp with time zone": "2020-01-01Z",
    }.get(type_)


# -- an archive of several tenants ------------------------------------------------------------------------------------


def call(tenant: str | None, user: str, said: str, **more: Any) -> dict[str, Any]:
    """A call with something of every kind, all of it telling whose it is."""
    began = ids.now() - timedelta(hours=3)
    mine = f"{tenant}wood"
    return {
        "status": "completed",
        "language": "en",
        "user_id": user,
        "agent_id": mine,
        "agent_name": mine,
        "from_number": mine,
        "started_at": began.isoformat(),
        "ended_at": (began + timedelta(seconds=90)).isoformat(),
        "collected_data": {mine: 1},
        "analysis": {"sentiment": "positive", "summary": mine},
        "unheard": mine,
        "mystery:1": {"what": mine},
        "message:1": {"role": "user", "content": f"{said} {mine}"},
        "message:2": {"role": mine},
        "transition:1": {"from_node_id": mine, "to_node_id": mine},
        "metric:1": {"metric_type": mine, "value": 7},
        "rag:1": {"query_text": mine, "chunks": [{"content": f"{mine} opening hours", "filename": mine}]},
        "extraction:1": {"variables_requested": [mine], "variables_extracted": {"name": mine}, "success": True},
        "interruption:1": {"interrupted_at_turn": 1, "node_id": mine},
        "tool:1": {"name": mine, "arguments": {"a": mine}},
        "participant:1": {"identity": mine, "name": mine},
        "cost:1": {"service": mine, "amount_cents": 3},
        "recording:1": {"recording_sid": mine},
        **({"tenant_id": tenant} if tenant else {}),
        **more,
    }


class Archive:
    """An archive with roles, and readers that the test adds."""

    def __init__(self, bridge: Any, url: str) -> None:
        self.bridge = bridge
        self.url = url
        self.connections = bridge.bridge.connections
        self.prefix = str(conninfo_to_dict(url)["dbname"])
        self._opened: list[Prying] = []

    def role(self, name: str) -> str:
        return f"{self.prefix} {name}"

    def make(self, name: str, attributes: str = "") -> str:
        """A role that can log in; its full name."""
        self.run(sql.SQL("CREATE ROLE {} LOGIN " + attributes).format(sql.Identifier(self.role(name))))
        return self.role(name)

    async def reader(self, name: str, sees: Any = "tenant", **what: Any) -> str:
        await let_read(self.connections, Reader(self.make(name), sees, **what))
        return self.role(name)

    def url_of(self, name: str) -> str:
        return make_conninfo(self.url, user=self.role(name))

    def pry(self, name: str) -> Prying:
        self._opened.append(Prying(self.url_of(name)))
        return self._opened[-1]

    def run(self, statement: str | sql.Composed, *parameters: Any) -> list[tuple[Any, ...]]:
        """As the owner."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            given = statement.encode() if isinstance(statement, str) else statement
            cursor = connection.execute(given, parameters or None)
            return cursor.fetchall() if cursor.description else []

    async def add(self, sid: str, tenant: str | None, user: str, said: str = "a refund", **more: Any) -> None:
        await self.bridge.ask(sid, call(tenant, user, said, **more))
        await self.bridge.drain()

    async def add_the_rest(self, tenant: str) -> None:
        """What no drain brings: credits, a budget, vectors, a dead session, a deleted call; and fresh numbers."""
        mine = f"{tenant}wood"
        self.run("SELECT grant_credits(%s, %s, 100, note => %s)", tenant, f"{tenant} user", mine)
        self.run("INSERT INTO user_budget_settings (tenant_id, user_id) VALUES (%s, %s)", tenant, f"{tenant} user")
        self.run("INSERT INTO embedding_models (model) VALUES ('m') ON CONFLICT DO NOTHING")
        self.run(
            "INSERT INTO call_embeddings SELECT id, 'm', 1, tenant_id, 8, 1, 5, %s, array_fill(0.1, ARRAY[8]) "
            "FROM call_sessions WHERE tenant_id = %s",
            *(mine, tenant),
        )
        self.run(
            "WITH dead AS (INSERT INTO dead_sessions (call_sid, tenant_id, reason, error, attempts, fields, size_bytes)"
            " VALUES (%(m)s, %(t)s, %(m)s, %(m)s, 1, 1, 1) RETURNING id) INSERT INTO dead_session_fields"
            " SELECT id, %(m)s::bytea, %(m)s::bytea, %(m)s::bytea FROM dead".replace("%(m)s", f"'{mine}'").replace(
                "%(t)s", f"'{tenant}'"
            )
        )
        await self.add(f"{mine} hidden", tenant, f"{tenant} user")
        assert await delete_call(self.connections, f"{mine} hidden", mine)
        await refresh_views(self.connections)

    def close(self) -> None:
        for prying in self._opened:
            prying.close()
        owned = self.run("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", self.prefix + " ")
        for name in [self.prefix + kind for kind in ("_owner", "_writer", "_reader")] + [row[0] for row in owned]:
            role = sql.Identifier(name)
            with contextlib.suppress(psycopg.errors.UndefinedObject):
                self.run(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
                self.run(sql.SQL("DROP OWNED BY {}").format(role))
                self.run(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
async def archive(bridge: Any, database_url: str) -> AsyncIterator[Archive]:
    made = Archive(bridge, database_url)
    assert await create_roles(made.connections, made.prefix) is None
    yield made
    made.close()


def told_of(found: dict[str, list[str]], *marks: str) -> dict[str, list[str]]:
    """Where one of these occurs, as text or as bytes in hexadecimal."""
    every = [mark for text in marks for mark in (text, text.encode().hex())]
    return {where: rows for where, rows in found.items() if any(mark in row.lower() for row in rows for mark in every)}


ATTEMPTS = {
    "nothing": "SELECT 1",
    "another tenant in the setting": "SET session_bridge.tenant = 'birch'",
    "claims of another": """SET request.jwt.claims = '{"sub": "birch user", "tenant_id": "birch"}'""",
    "no row security": "SET row_security = off",
    "functions and tables of its own": SHADOWS,
    "an empty path": "SET search_path = ''",
    "only what is granted to all": 'SET ROLE "PREFIX_reader"',
}
REFUSED = (
    'SET ROLE "PREFIX birch"',
    "SELECT set_config('role', 'PREFIX birch', false)",
    'SET SESSION AUTHORIZATION "PREFIX birch"',
    'SET ROLE "PREFIX_writer"',
    "SET ROLE postgres",
    "SET session_replication_role = replica",
    "UPDATE session_bridge_readers SET sees = 'all'",
    "ALTER TABLE call_sessions DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY mine ON call_sessions USING (true)",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "UPDATE call_sessions SET tenant_id = 'amber'",
)


async def test_a_reader_sees_nothing_of_another_tenant(archive: Archive) -> None:
    await archive.reader("amber", tenant="amber")
    await archive.reader("birch", tenant="birch")
    await archive.add("amber 1", "amber", "amber user")
    await archive.add_the_rest("amber")
    given = ["birch", "birch user", "birch 1", "refund", "call_sessions"]
    readers = {}
    for attempt, statement in ATTEMPTS.items():
        readers[attempt] = archive.pry("amber")
        readers[attempt].connection.execute(statement.replace("PREFIX", archive.prefix).encode())
    for statement in REFUSED:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            readers["nothing"].connection.execute(statement.replace("PREFIX", archive.prefix).encode())
    before = {attempt: reader.found(given) for attempt, reader in readers.items()}

    await archive.add("birch 1", "birch", "birch user")
    await archive.add("nobody 1", None, "nobody")
    await archive.add_the_rest("birch")
    # What there is to see: the owner finds it in every table that a reader may ask.
    for (table,) in archive.run("SELECT relation::text FROM archive_tables() WHERE rule NOT IN ('closed', 'open')"):
        query = sql.SQL("SELECT 1 FROM {} AS t WHERE t::text ~ 'birch' LIMIT 1").format(sql.Identifier(table))
        assert archive.run(query), table
    [(birch,)] = archive.run("SELECT session_id_of('birch 1')::text")

    for attempt, reader in readers.items():
        after = reader.found(given)
        assert told_of(after, "birchwood", "nonewood", birch) == {}, attempt
        # And nothing can be inferred: not one answer is another than before that tenant called.
        assert {where: rows for where, rows in after.items() if rows != before[attempt][where]} == {}, attempt
    seen = set(told_of(readers["nothing"].found(given), "amberwood"))
    names = ("call_sessions", "call_messages", "call_analytics", "call_timeline", "call_flow", "call_embeddings")
    assert seen >= {f"public.{name}{way}" for name in names for way in ("", " by a function", " by COPY")}
    assert {"public.rag_chunk_contents", "public.credit_transactions", "public.agent_performance"} <= seen
    assert {name.partition("(")[0] for name in seen} >= {"public.search_calls", "public.search_messages"}


async def test_no_setting_that_a_reader_may_change_opens_anything(archive: Archive) -> None:
    await archive.reader("amber", tenant="amber")
    await archive.add("amber 1", "amber", "u")
    await archive.add("birch 1", "birch", "u")
    archive.run("ANALYZE")
    reader = archive.pry("amber").connection
    switches = reader.execute("SELECT name, setting FROM pg_settings WHERE context = 'user' AND vartype = 'bool'")
    tried = 0
    for name, setting in switches.fetchall():
        other = "off" if setting == "on" else "on"
        with contextlib.suppress(psycopg.Error):
            reader.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), other))
            rows = reader.execute("SELECT tenant_id FROM call_sessions NATURAL FULL JOIN call_sids").fetchall()
            assert {tenant for (tenant,) in rows} <= {"amber"}, name
            assert reader.execute("SELECT call_sid FROM search_calls('refund')").fetchall() == [("amber 1",)], name
            tried += 1
        with contextlib.suppress(psycopg.errors.FeatureNotSupported):
            reader.execute(sql.SQL("RESET {}").format(sql.Identifier(name)))
    assert tried > 50


async def test_partitions_and_later_tables_stay_closed(archive: Archive) -> None:
    await archive.reader("amber", tenant="amber")
    await archive.add("amber 1", "amber", "u")
    # As where somebody grants on whatever is made.
    reader = sql.Identifier(archive.role("amber"))
    archive.run(sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {}").format(reader))
    async with archive.connections.plain() as connection:
        made = await ensure_partitions(connection, "public", months_ahead=5)
    assert made
    assert archive.run("SELECT * FROM archive_exposures()") == []

    archive.run(
        "CREATE TABLE call_moods (session_id uuid, tenant_id text, mood text, PRIMARY KEY (session_id)) "
        "PARTITION BY RANGE (session_id)"
    )
    archive.run("SELECT partition_by_month('call_moods')")
    archive.run(
        "INSERT INTO call_moods VALUES (gen_random_uuid(), 'amber', 'good'), (gen_random_uuid(), 'birch', 'bad')"
    )
    assert archive.run("SELECT * FROM archive_exposures()") != []
    archive.run("SELECT protect_archive()")
    assert archive.run("SELECT * FROM archive_exposures()") == []
    found = archive.pry("amber").found()
    assert [json.loads(row)["mood"] for row in found["public.call_moods"]] == ["good"]
    assert found["public.call_moods_default"][0].startswith("42501")
    assert all(found[f"public.{name}"][0].startswith("42501") for name in made)

    # Even where somebody grants on all tables at once: partitions have policies of nobody.
    archive.run(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(reader))
    found = archive.pry("amber").found()
    assert found["public.call_moods_default"] == []
    exposed = {what for (what, _) in archive.run("SELECT * FROM archive_exposures()")}
    assert {"call_moods_default", "conversation_metrics", "performance_stats"} <= exposed


async def test_everything_in_the_schema_is_known(archive: Archive) -> None:
    unknown = archive.run(
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition AND oid NOT IN (SELECT relation FROM archive_tables())"
    )
    assert unknown == [], "name it in archive_tables(), or register it"
    assert archive.run("SELECT * FROM archive_exposures()") == []
    # Who is above the policies by a function: only functions that ask for the reader themselves, or are for writers.
    definers = archive.run(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef AND "
        "has_function_privilege(%s, oid, 'EXECUTE') ORDER BY 1",
        f"{archive.prefix}_reader",
    )
    assert {name for (name,) in definers} == {
        *("reader_scope", "reader_calls", "deleted_session_ids", "search_calls_for_reader"),
        *("search_messages_for_reader", "search_chunks_for_reader", "search_calls_by_meaning_for_reader"),
    }
    unsafe = archive.run(
        "SELECT proname FROM pg_proc WHERE prosecdef AND NOT proconfig::text ~ 'search_path=.*pg_temp'"
    )
    assert unsafe == []


async def test_who_is_let_to_sees_its_own_part(archive: Archive) -> None:
    for sid, tenant, user in (("1", "amber", "ann"), ("2", "amber", "bob"), ("3", "birch", "ann"), ("4", None, "cy")):
        await archive.add(sid, tenant, user)
    more: dict[str, Any] = {"participant:2": {"identity": "x", "user_id": "ann"}, "participant:3": {"identity": "bob"}}
    await archive.add("5", "amber", "dan", **more)
    await archive.reader("everything", "all")
    await archive.reader("amber", tenant="amber")
    await archive.reader("ann", "user", user="ann")
    await archive.reader("ann of amber", "user", user="ann", tenant="amber")
    await archive.reader("ann who took part", "participant", user="ann")
    await archive.reader("bob", "participant", user="bob", tenant="amber")
    archive.run(
        sql.SQL("GRANT {} TO {}").format(
            sql.Identifier(f"{archive.prefix}_reader"), sql.Identifier(archive.make("unmapped"))
        )
    )

    for name, wanted in {
        "everything": "12345",
        "amber": "125",
        "ann": "13",
        "ann of amber": "1",
        "ann who took part": "135",
        "bob": "25",
        "unmapped": "",
    }.items():
        reader = archive.pry(name).connection

        def sids(query: str, reader: psycopg.Connection[Any] = reader) -> str:
            return "".join(sorted({sid for (sid,) in reader.execute(query.encode()).fetchall()}))

        assert sids("SELECT call_sid FROM call_sessions") == wanted, name
        assert sids("SELECT call_sid FROM search_calls('refund')") == wanted, name
        assert sids("SELECT call_sid FROM search_messages('refund')") == wanted, name
        assert sids("SELECT call_sid FROM search_chunks('opening hours')") == wanted, name
        joined = "SELECT call_sid FROM call_sessions JOIN call_rag_chunk_texts ON session_id = id WHERE content <> ''"
        assert sids(joined) == wanted, name
        assert sids("SELECT call_sid FROM search_calls('refund', tenant => 'birch')") == "".join(
            sid for sid in wanted if sid == "3"
        ), name

    assert await stop_reading(archive.connections, archive.role("amber"))
    assert not await stop_reading(archive.connections, archive.role("amber"))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        archive.pry("amber").connection.execute("SELECT 1 FROM call_sessions")


async def test_a_member_sees_what_its_one_role_sees(archive: Archive) -> None:
    await archive.add("1", "amber", "u")
    await archive.add("2", "birch", "u")
    amber, birch = await archive.reader("amber", tenant="amber"), await archive.reader("birch", tenant="birch")
    ann = archive.make("ann")
    archive.run(sql.SQL("GRANT {} TO {}").format(sql.Identifier(amber), sql.Identifier(ann)))
    assert archive.pry("ann").connection.execute("SELECT call_sid FROM call_sessions").fetchall() == [("1",)]
    # Of two, it says which.
    archive.run(sql.SQL("GRANT {} TO {}").format(sql.Identifier(birch), sql.Identifier(ann)))
    reader = archive.pry("ann").connection
    assert reader.execute("SELECT call_sid FROM call_sessions").fetchall() == []
    for role, sid in ((amber, "1"), (birch, "2")):
        reader.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        assert reader.execute("SELECT call_sid FROM call_sessions").fetchall() == [(sid,)]
        assert reader.execute("SELECT call_sid FROM search_calls('refund')").fetchall() == [(sid,)]
        assert reader.execute("SELECT current_tenant()").fetchall() == [(role.rpartition(" ")[2],)]


async def test_a_service_names_its_tenant_in_a_setting(archive: Archive) -> None:
    await archive.add("1", "amber", "u")
    await archive.add("2", "birch", "u")
    await archive.reader("app", tenant_from="current_setting('session_bridge.tenant', true)")
    app = archive.pry("app").connection
    assert app.execute("SELECT call_sid FROM call_sessions").fetchall() == []
    for tenant, sid in (("amber", "1"), ("birch", "2")):
        with app.transaction():
            app.execute("SELECT set_config('session_bridge.tenant', %s, true)", (tenant,))
            assert app.execute("SELECT call_sid FROM call_sessions").fetchall() == [(sid,)]
            assert app.execute("SELECT call_sid FROM search_calls('refund')").fetchall() == [(sid,)]
    # The setting was the transaction's: what is left of it is empty, and an empty tenant is none.
    assert app.execute("SELECT call_sid FROM call_sessions").fetchall() == []
    assert app.execute("SELECT call_sid FROM search_calls('refund')").fetchall() == []


async def test_supabase_users_see_their_own(archive: Archive) -> None:
    """By functions like Supabase's own, which read what PostgREST sets in each transaction."""
    claims = "nullif(current_setting('request.jwt.claims', true), '')::jsonb"
    archive.run(
        "CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;"
        f"CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT {claims} $$;"
        f"CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT ({claims} ->> 'sub')::uuid $$"
    )
    ann, bob = str(uuid4()), str(uuid4())
    await archive.add("1", "amber", ann)
    await archive.add("2", "amber", bob)
    await archive.add("3", "birch", ann)
    await archive.reader("authenticated", "user", user_from="auth.uid()")
    await archive.reader("members", tenant_from="auth.jwt() -> 'app_metadata' ->> 'tenant_id'")
    for name, wanted in (("authenticated", {"1", "3"}), ("members", {"1", "2"})):
        web = archive.pry(name).connection
        assert web.execute("SELECT call_sid FROM call_sessions").fetchall() == []
        with web.transaction():
            said = json.dumps({"sub": ann, "app_metadata": {"tenant_id": "amber"}})
            web.execute("SELECT set_config('request.jwt.claims', %s, true)", (said,))
            assert {sid for (sid,) in web.execute("SELECT call_sid FROM call_sessions").fetchall()} == wanted
            found = web.execute("SELECT DISTINCT call_sid FROM search_messages('refund')").fetchall()
            assert {sid for (sid,) in found} == wanted


async def test_who_cannot_be_bound_cannot_be_a_reader(archive: Archive) -> None:
    archive.make("root", "SUPERUSER")
    archive.make("above", "BYPASSRLS")
    archive.make("someone")
    for name in ("root", "above"):
        with pytest.raises(RolesError, match="above row level security"):
            await let_read(archive.connections, Reader(archive.role(name), "tenant", "amber"))
    with pytest.raises(RolesError, match="does not exist"):
        await let_read(archive.connections, Reader("nobody at all", "tenant", "amber"))
    with pytest.raises(RolesError, match="name a tenant or a user"):
        await let_read(archive.connections, Reader(archive.role("someone"), "tenant"))
    with pytest.raises(RolesError, match="syntax error"):
        await let_read(archive.connections, Reader(archive.role("someone"), "tenant", tenant_from="what ever ("))
    archive.run(
        sql.SQL("ALTER ROLE {} BYPASSRLS").format(sql.Identifier(await archive.reader("later", tenant="amber")))
    )
    _, found, exposed = await roles(archive.connections)
    assert {role.kind: role.above_policies for role in found} == {"owner": False, "writer": True, "reader": False}
    assert [(one.what, one.problem) for one in exposed] == [
        (archive.role("later"), "a reader that is above row level security")
    ]


# -- the writer and the owner -----------------------------------------------------------------------------------------


async def test_a_worker_that_may_only_write(archive: Archive, bridge_with: Any) -> None:
    writer = sql.Identifier(archive.make("worker", "BYPASSRLS"))
    archive.run(sql.SQL("GRANT {} TO {}").format(sql.Identifier(f"{archive.prefix}_writer"), writer))
    archive.run("CREATE EXTENSION IF NOT EXISTS vector")
    mine = await bridge_with(database_url=archive.url_of("worker"), namespace="other", credits="allow_negative")
    await mine.ask("1", call("amber", "u", "a refund"))
    assert await mine.drain()
    await mine.ask("1", **{"message:3": {"role": "user", "content": "one thing more"}})
    assert await mine.drain()
    assert (await mine.call("1"))["drains"] == 2
    [(partition,)] = archive.run(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'call_metrics'::regclass "
        "AND inhrelid::regclass::text ~ '_y' ORDER BY 1 DESC LIMIT 1"
    )
    archive.run(sql.SQL("DROP TABLE {}").format(sql.Identifier(partition)))
    async with mine.bridge.connections.plain() as connection:
        assert await ensure_partitions(connection, "public") == [partition]
    assert set(await refresh_views(mine.bridge.connections)) == {"conversation_metrics", "performance_stats"}
    with psycopg.connect(archive.url_of("worker"), autocommit=True) as connected:
        given = json.dumps([{"call_sid": "2", "status": "completed", "messages": [{"role": "user", "content": "x"}]}])
        loaded = connected.execute("SELECT result, error FROM batch_insert_conversations(%s)", (given,)).fetchall()
        assert loaded == [("inserted", None)]
        assert connected.execute("SELECT prepare_semantic_search('m', 8)").fetchall() == [(None,)]
        for refused in (
            "DROP TABLE call_metrics",
            "TRUNCATE call_sessions",
            "ALTER TABLE call_sessions DISABLE ROW LEVEL SECURITY",
            "CREATE TABLE mine ()",
            "INSERT INTO session_bridge_readers (role_name, sees) VALUES (session_user, 'all')",
            "UPDATE session_bridge_migrations SET version = 0",
            "DELETE FROM session_bridge_archive",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connected.execute(refused.encode())


async def test_readers_run_no_function_that_writes(archive: Archive) -> None:
    await archive.reader("everything", "all")
    reader = archive.pry("everything").connection
    for refused in (
        "upsert_conversation('{}')",
        "batch_insert_conversations('[]')",
        "create_monthly_partition('call_metrics', '2031-01-01')",
        "refresh_archive_views()",
        "grant_credits('', 'u', 1)",
        "let_read(session_user, 'all')",
        "protect_archive()",
        "cleanup_old_partitions()",
        "forget_embedding_model('m')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"SELECT {refused}".encode())


async def test_who_may_make_no_roles_may_migrate(empty_database_url: str) -> None:
    name = str(conninfo_to_dict(empty_database_url)["dbname"])
    plain = sql.Identifier(f"{name} plain")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN NOCREATEROLE").format(plain))
        connection.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(sql.Identifier(name), plain))
        try:
            url = make_conninfo(empty_database_url, user=f"{name} plain")
            migrate(url, "calls")
            assert connection.execute("SELECT * FROM calls.archive_exposures()").fetchall() == []
            with psycopg.connect(url) as own, pytest.raises(psycopg.errors.InsufficientPrivilege):
                own.execute("SELECT calls.create_archive_roles('x')")
            migrate(url, "calls", to=0)
        finally:
            connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(plain, plain))


async def test_the_archive_is_given_to_its_owner(archive: Archive) -> None:
    await archive.add("1", "amber", "u")
    assert await create_roles(archive.connections, archive.prefix, give_ownership=True) is None
    owner = f"{archive.prefix}_owner"
    assert (
        archive.run(
            "SELECT relname FROM pg_class WHERE relowner <> %s::regrole AND relnamespace = 'public'::regnamespace",
            owner,
        )
        == []
    )
    login = sql.Identifier(archive.make("keeper"))
    archive.run(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), login))
    await archive.reader("amber", tenant="amber")
    assert archive.pry("amber").connection.execute("SELECT call_sid FROM call_sessions").fetchall() == [("1",)]
    assert archive.pry("keeper").connection.execute("SELECT call_sid FROM search_calls('refund')").fetchall() == [
        ("1",)
    ]
    archive.run("CREATE TABLE orders (tenant_id text)")
    with pytest.raises(RolesError, match="tables of others"):
        await create_roles(archive.connections, archive.prefix, give_ownership=True)
    assert archive.run("SELECT relrowsecurity FROM pg_class WHERE relname = 'orders'") == [(False,)]


# -- the way back -----------------------------------------------------------------------------------------------------


async def test_goes_down_and_up_again_with_readers(archive: Archive) -> None:
    await archive.reader("amber", tenant="amber")
    await archive.add("1", "amber", "amber user")
    await archive.add_the_rest("birch")
    state = "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    policies = "SELECT polrelid::regclass::text, polname, pg_get_expr(polqual, polrelid) FROM pg_policy ORDER BY 1, 2"
    before = [archive.run(state), archive.run(policies)]
    migrate(archive.url, to=6)
    assert {secured for _, secured in archive.run(state)} == {False}
    assert archive.run(policies) == []
    # Without policies a reader that could still read would see everything.
    found = archive.pry("amber").found()
    assert told_of(found, "birchwood", "amberwood") == {}
    assert archive.run("SELECT call_sid FROM search_calls('refund amberwood')") == [("1",)]
    migrate(archive.url)
    assert [archive.run(state), archive.run(policies)] == before
    assert await create_roles(archive.connections, archive.prefix) is None
    await let_read(archive.connections, Reader(archive.role("amber"), "tenant", "amber"))
    reader = archive.pry("amber").connection
    assert reader.execute("SELECT call_sid FROM call_sessions").fetchall() == [("1",)]
