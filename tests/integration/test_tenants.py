"""What a reader sees: of its own tenant all that is for readers, of every other nothing, whatever it tries.

What is tried is taken from the catalogue, so that a table, a view or a function that is made later is tried too.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
SELECT nspname, proname, array(SELECT format_type(unnest(proargtypes), NULL))
FROM pg_proc JOIN pg_namespace AS home ON home.oid = pronamespace
WHERE nspname !~ '^(pg_|information_schema$)' AND prokind = 'f' AND prorettype <> 'trigger'::regtype
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e')
ORDER BY 1, 2, 3"""

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
            relation = sql.Identifier(schema, name)
            # How long a call has been running changes by itself.
            read = sql.SQL("SELECT (to_jsonb(t) - 'running_seconds')::text FROM {} AS t").format(relation)
            leak = sql.SQL("SELECT count(*) FROM {} AS t WHERE pg_temp.leak((to_jsonb(t) - 'running_seconds')::text)")
            found[f"{schema}.{name}"] = self._try(lambda read=read: connection.execute(read).fetchall())  # type: ignore[misc]
            self.notices.clear()
            self._try(lambda leak=leak.format(relation): connection.execute(leak).fetchall())  # type: ignore[misc]
            found[f"{schema}.{name} by a function"] = sorted(self.notices)
            found[f"{schema}.{name} by COPY"] = self._try(lambda relation=relation: self._copied(relation))  # type: ignore[misc]
        for schema, name, types in connection.execute(FUNCTIONS).fetchall():
            for text in given:
                arguments = [argument(type_, text) for type_ in types]
                call = sql.SQL("SELECT to_jsonb(t)::text FROM {}({}) AS t").format(
                    sql.Identifier(schema, name),
                    sql.SQL(", ").join(sql.SQL("%s::" + type_) for type_ in types),
                )
                # What it writes, if it may, is not kept.
                with contextlib.suppress(psycopg.Rollback), connection.transaction(force_rollback=True):
                    found[f"{schema}.{name}({', '.join(types)}) of {text}"] = self._try(
                        lambda call=call, arguments=arguments: connection.execute(call, arguments).fetchall()  # type: ignore[misc]
                    )
        return found

    def _copied(self, relation: sql.Identifier) -> list[tuple[str]]:
        with self.connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(relation)) as copy:
            return [(bytes(block).decode(),) for block in copy]

    def _try(self, what: Callable[[], list[tuple[Any, ...]]]) -> list[str]:
        try:
            if self.connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                with self.connection.transaction():
                    return sorted(str(row[0]) for row in what())
            return sorted(str(row[0]) for row in what())
        except psycopg.Error as error:
            return [f"{error.sqlstate}: {error.diag.message_primary}"]

    def close(self) -> None:
        self.connection.close()


def argument(type_: str, text: str) -> Any:
    """Something of this type, as telling as can be."""
    if type_ in ("text", "name", "character varying"):
        return text
    if type_ == "uuid":
        return text if len(text) == len(str(uuid4())) and text.count("-") == 4 else None  # noqa: PLR2004
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
        "extraction:1": {"variables_extracted": {"name": mine}},
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
        self.prefix = conninfo_to_dict(url)["dbname"]
        self._opened: list[Prying] = []

    def role(self, name: str) -> str:
        return f"{self.prefix} {name}"

    def make(self, name: str, attributes: str = "") -> str:
        """A role that can log in; its full name."""
        self.run(sql.SQL("CREATE ROLE {} LOGIN " + attributes).format(sql.Identifier(self.role(name))))
        return self.role(name)

    async def reader(self, name: str, sees: Any = "tenant", **what: str) -> str:
        await let_read(self.connections, Reader(self.make(name), sees, **what))
        return self.role(name)

    def url_of(self, name: str) -> str:
        return make_conninfo(self.url, user=self.role(name))

    def pry(self, name: str) -> Prying:
        self._opened.append(Prying(self.url_of(name)))
        return self._opened[-1]

    def run(self, statement: str | sql.Composable, *parameters: Any) -> list[tuple[Any, ...]]:
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
        self.run("SELECT grant_credits(%s, %s, 100, note => %s)", tenant, mine, mine)
        self.run("INSERT INTO user_budget_settings (tenant_id, user_id) VALUES (%s, %s)", tenant, mine)
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
        await self.add(f"{mine} hidden", tenant, mine)
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
    return {
        where: rows for where, rows in found.items() if any(mark in row.lower() for row in rows for mark in every)
    }


ATTEMPTS = {
    "nothing": "SELECT 1",
    "another tenant in the setting": "SET session_bridge.tenant = 'birch'",
    "claims of another": """SET request.jwt.claims = '{"sub": "birchwood", "tenant_id": "birch"}'""",
    "no row security": "SET row_security = off",
    "functions and tables of its own": SHADOWS,
    "an empty path": "SET search_path = ''",
    "the role of another": 'SET ROLE "{prefix} birch"',
    "the writer": 'SET ROLE "{prefix}_writer"',
    "the owner": "SET ROLE postgres",
    "the login of another": "SET SESSION AUTHORIZATION \"{prefix} birch\"",
    "the role in a setting": "SELECT set_config('role', '{prefix} birch', false)",
    "every row by itself": "SET session_replication_role = replica",
    "nothing of its role": "RESET ROLE",
    "only what is granted to all": 'SET ROLE "{prefix}_reader"',
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
async def test_a_reader_sees_nothing_of_another_tenant(archive: Archive, attempt: str) -> None:
    await archive.reader("amber", tenant="amber")
    await archive.reader("birch", tenant="birch")
    await archive.add("amber 1", "amber", "amberwood")
    await archive.add_the_rest("amber")
    birch = str(ids.new_session_id(ids.now())) if hasattr(ids, "new_session_id") else str(uuid4())
    given = ["birch", "birchwood", "birch 1", "refund", "call_sessions", birch]

    def look() -> dict[str, list[str]]:
        prying = archive.pry("amber")
        with contextlib.suppress(psycopg.Error):
            prying.connection.execute(ATTEMPTS[attempt].format(prefix=archive.prefix).encode())
        return prying.found(given)

    before = look()
    await archive.add("birch 1", "birch", "birchwood")
    await archive.add("nobody 1", None, "nobody")
    await archive.add_the_rest("birch")
    [(birch_id,)] = archive.run("SELECT session_id_of('birch 1')::text")
    after = look()

    # What there is to see: the owner finds it in every table that a reader may ask.
    for (table,) in archive.run("SELECT relation::text FROM archive_tables() WHERE rule NOT IN ('closed', 'open')"):
        query = sql.SQL("SELECT 1 FROM {} AS t WHERE t::text ~ %s LIMIT 1").format(sql.Identifier(table))
        # A call that is deleted is named by its id alone.
        assert archive.run(query, "birch"), table

    assert told_of(after, "birchwood", "nonewood", birch_id) == {}
    # And nothing can be inferred: not one answer is another than before that tenant called.
    assert {where: rows for where, rows in after.items() if rows != before[where]} == {}
    if attempt == "nothing":
        assert told_of(after, "amberwood").keys() >= {
            f"public.{name}{way}"
            for name in ("call_sessions", "call_messages", "call_analytics", "call_timeline", "call_flow", "call_sids")
            for way in ("", " by a function")
        } | {"public.rag_chunk_contents", "public.user_credits", "public.call_embeddings", "public.agent_performance"}
        assert any("amber" in row for row in after["public.tenant_conversation_metrics"])


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
    archive.run("INSERT INTO call_moods VALUES (gen_random_uuid(), 'amber', 'good'), (gen_random_uuid(), 'birch', 'bad')")
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
    unsafe = archive.run("SELECT proname FROM pg_proc WHERE prosecdef AND NOT proconfig::text ~ 'search_path=.*pg_temp'")
    assert unsafe == []


async def test_who_is_let_to_sees_its_own_part(archive: Archive) -> None:
    for sid, tenant, user in (("1", "amber", "ann"), ("2", "amber", "bob"), ("3", "birch", "ann"), ("4", None, "cy")):
        await archive.add(sid, tenant, user)
    more = {"participant:2": {"identity": "x", "user_id": "ann"}, "participant:3": {"identity": "bob"}}
    await archive.add("5", "amber", "dan", **more)
    await archive.reader("everything", "all")
    await archive.reader("amber", tenant="amber")
    await archive.reader("ann", "user", user="ann")
    await archive.reader("ann of amber", "user", user="ann", tenant="amber")
    await archive.reader("ann who took part", "participant", user="ann")
    await archive.reader("bob", "participant", user="bob", tenant="amber")
    archive.run(sql.SQL("GRANT {} TO {}").format(
        sql.Identifier(f"{archive.prefix}_reader"), sql.Identifier(archive.make("unmapped"))))

    for name, wanted in {
        "everything": "12345", "amber": "125", "ann": "13", "ann of amber": "1", "ann who took part": "135",
        "bob": "25", "unmapped": "",
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
    archive.run(sql.SQL("ALTER ROLE {} BYPASSRLS").format(sql.Identifier(await archive.reader("later", tenant="amber"))))
    _, found, exposed = await roles(archive.connections)
    assert {role.kind: role.above_policies for role in found} == {"owner": False, "writer": True, "reader": False}
    assert [(one.what, one.problem) for one in exposed] == [
        (archive.role("later"), "a reader that is above row level security")
    ]
