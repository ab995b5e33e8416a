-- Tenants: who may read what. Roles with the least rights, and row level security on every table that carries a call.
--
-- The tenant follows the role: a reader may SET whatever it likes, and change nothing but its own role, to one that it is
-- a member of. The tables' owner is above the policies, so that a drain pays nothing for them. Nothing here makes a
-- role: roles belong to the whole server, and create_archive_roles() is for whoever may make them.

-- What each reader sees. The tenant or the user is named here, or, for a service whose SQL its users cannot write,
-- read in every query by an expression of SQL.
CREATE TABLE session_bridge_readers (
    role_name   name PRIMARY KEY,
    sees        text NOT NULL CHECK (sees IN ('all', 'tenant', 'user', 'participant')),
    tenant_id   text CHECK (tenant_id <> ''),
    user_id     text CHECK (user_id <> ''),
    tenant_from text,
    user_from   text,
    CHECK (tenant_id IS NULL OR tenant_from IS NULL),
    CHECK ((sees = 'all') <= (tenant_id IS NULL AND tenant_from IS NULL)),
    CHECK ((sees = 'tenant') <= (tenant_id IS NOT NULL OR tenant_from IS NOT NULL)),
    CHECK ((sees IN ('user', 'participant')) = ((user_id IS NULL) <> (user_from IS NULL))),
    CHECK (user_id IS NULL OR user_from IS NULL)
);

-- The roles that were made for this archive, so that what they may do can be granted anew.
CREATE TABLE session_bridge_roles (
    kind      text PRIMARY KEY CHECK (kind IN ('owner', 'writer', 'reader')),
    role_name name NOT NULL
);

-- -- who asks --------------------------------------------------------------------------------------------------------

-- What the present role sees: 'everything' is the owner's, and null is nothing. A role that is not named itself sees
-- what the one role sees that it inherits from; who is a member of several chooses by SET ROLE.
--
-- Inside of a function of the owner current_user is the owner; what SET ROLE has set, and else the login, is still who
-- asks, and neither can be had without being a member.
CREATE FUNCTION reader_scope(OUT sees text, OUT tenant text, OUT whose text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED SET search_path FROM CURRENT
    AS $$
DECLARE
    caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    given session_bridge_readers[];
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = caller AND (rolsuper OR rolbypassrls))
        OR pg_has_role(caller, (SELECT relowner FROM pg_class WHERE oid = 'call_sessions'::regclass), 'USAGE')
    THEN
        sees := 'everything';
        RETURN;
    END IF;
    SELECT array_agg(reader) INTO given FROM session_bridge_readers AS reader WHERE role_name = caller;
    IF given IS NULL THEN
        SELECT array_agg(reader) INTO given
        FROM session_bridge_readers AS reader JOIN pg_roles ON rolname = reader.role_name
        WHERE pg_has_role(caller, pg_roles.oid, 'USAGE');
    END IF;
    IF cardinality(given) IS DISTINCT FROM 1 THEN
        RETURN;
    END IF;
    tenant := given[1].tenant_id;
    whose := given[1].user_id;
    -- What is asked for and not there must not become "any".
    IF given[1].tenant_from IS NOT NULL THEN
        EXECUTE format('SELECT nullif((%s)::text, '''')', given[1].tenant_from) INTO tenant;
        IF tenant IS NULL THEN
            RETURN;
        END IF;
    END IF;
    IF given[1].user_from IS NOT NULL THEN
        EXECUTE format('SELECT nullif((%s)::text, '''')', given[1].user_from) INTO whose;
        IF whose IS NULL THEN
            RETURN;
        END IF;
    END IF;
    sees := given[1].sees;
END $$;

-- The tenant of the present role; null for those who see more, or nothing.
CREATE FUNCTION current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path FROM CURRENT
    AS $$ SELECT tenant FROM reader_scope() WHERE sees IS NOT NULL $$;

-- Whom a participant is: the user, or, where none is named, the identity. Of a bounded part: a btree refuses a long text.
CREATE INDEX call_participants_user ON call_participants (left(coalesce(user_id, identity), 255), session_id);

-- The calls of the present role, where that is a user's.
CREATE FUNCTION reader_calls() RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED ROWS 200 SET search_path FROM CURRENT
    AS $$
DECLARE
    scope record;
BEGIN
    SELECT * INTO scope FROM reader_scope();
    IF scope.sees IN ('user', 'participant') THEN
        RETURN QUERY SELECT id FROM call_sessions
            WHERE user_id = scope.whose AND (scope.tenant IS NULL OR tenant_id = scope.tenant);
    END IF;
    IF scope.sees = 'participant' THEN
        RETURN QUERY SELECT session_id FROM call_participants
            WHERE left(coalesce(user_id, identity), 255) = left(scope.whose, 255)
                AND coalesce(user_id, identity) = scope.whose
                AND (scope.tenant IS NULL OR tenant_id = scope.tenant);
    END IF;
END $$;

-- The calls that are deleted and can be taken back, of those the present role would see: no reader sees them.
CREATE FUNCTION deleted_session_ids() RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED ROWS 100 SET search_path FROM CURRENT
    AS $$
DECLARE
    scope record;
BEGIN
    SELECT * INTO scope FROM reader_scope();
    RETURN QUERY SELECT deleted.session_id
        FROM deleted_calls AS deleted JOIN call_sessions AS call ON call.id = deleted.session_id
        WHERE CASE WHEN scope.sees IN ('everything', 'all') THEN true WHEN scope.sees = 'tenant'
            THEN call.tenant_id = scope.tenant ELSE call.id IN (SELECT reader_calls()) END;
END $$;

-- -- what is ours ----------------------------------------------------------------------------------------------------

-- Every table of the archive and how its rows are read: 'call' by the call they belong to, whose tenant they name;
-- 'through' likewise, but they name none; 'user' by the user they belong to; 'chunk' by the calls that retrieved them;
-- 'tenant' by the tenant alone; 'open' by everyone; 'closed' not at all. A table made later is in its register, or named here.
CREATE FUNCTION archive_tables() RETURNS TABLE (relation regclass, rule text, call_key name)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
    AS $$
DECLARE
    ours name[];
BEGIN
    SELECT array_agg(registered.table_name) INTO ours FROM (
        SELECT table_name FROM session_bridge_partitioned_tables
        UNION SELECT table_name FROM session_bridge_call_tables
        UNION SELECT unnest(ARRAY[
            'call_sids', 'dead_session_fields', 'embedding_models', 'provider_rates', 'user_budget_settings',
            'user_credits', 'credit_transactions', 'retired_months', 'erasure_receipts'
        ]::name[])
    ) AS registered (table_name);
    RETURN QUERY
        SELECT class.oid::regclass, CASE
            -- Any command asks the first; which months are missing must not seem to be none.
            WHEN relname IN ('session_bridge_migrations', 'session_bridge_partitioned_tables') THEN 'open'
            -- What came raw, or was not understood, and what is said to those who run the bridge.
            WHEN relname IN ('call_session_rejects', 'dead_sessions', 'dead_session_fields', 'call_journal')
                OR relname LIKE 'session\_bridge\_%' THEN 'closed'
            WHEN relname = 'rag_chunk_contents' THEN 'chunk'
            WHEN 'tenant_id' = ANY (columns) AND 'user_id' = ANY (columns) AND relkind = 'r' THEN 'user'
            WHEN 'tenant_id' = ANY (columns) AND (relname = 'call_sessions' OR 'session_id' = ANY (columns)) THEN 'call'
            WHEN 'tenant_id' = ANY (columns) THEN 'tenant'
            WHEN 'session_id' = ANY (columns) THEN 'through'
            ELSE 'closed'
        END, CASE WHEN relname = 'call_sessions' THEN 'id' ELSE 'session_id' END::name
        FROM pg_class AS class
        CROSS JOIN LATERAL (
            SELECT array_agg(attname) AS columns FROM pg_attribute
            WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped
        ) AS has
        WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p')
            AND NOT relispartition AND (relname = ANY (ours) OR relname LIKE 'session\_bridge\_%')
        ORDER BY relname;
END $$;

-- Every view over those tables that is read with its reader's own rights, those of older names too.
CREATE FUNCTION archive_views() RETURNS SETOF regclass
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT DISTINCT shown.oid::regclass
    FROM pg_class AS shown
    JOIN pg_namespace AS home ON home.oid = shown.relnamespace
    JOIN pg_rewrite ON ev_class = shown.oid
    JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid AND refclassid = 'pg_class'::regclass
    WHERE shown.relkind = 'v' AND shown.reloptions && ARRAY['security_invoker=true', 'security_invoker=on']
        AND (nspname = current_schema() OR nspname IN (SELECT schema_name FROM session_bridge_compatibility))
        AND refobjid IN (SELECT relation FROM archive_tables())
    $$;

-- -- closing ---------------------------------------------------------------------------------------------------------

-- Take from everybody but its owner what was granted on a table. Some servers grant on every table that is made.
CREATE FUNCTION revoke_grants(closed regclass) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT DISTINCT CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END
        FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) AS given
        WHERE pg_class.oid = closed AND given.grantee <> relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', closed, who);
    END LOOP;
END $$;

-- A partition is reached through its table alone: by itself it has no policy and shows nothing.
CREATE FUNCTION close_partition(closed regclass) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    writer name := (SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind = 'writer');
BEGIN
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = closed) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', closed);
    END IF;
    PERFORM revoke_grants(closed);
    -- The worker counts what lies in default partitions.
    IF writer IS NOT NULL THEN
        EXECUTE format('GRANT SELECT ON %s TO %I', closed, writer);
    END IF;
END $$;

-- The condition under which a reader sees a row.
CREATE FUNCTION reader_condition(relation regclass, rule text, call_key name) RETURNS text
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT CASE rule
        WHEN 'open' THEN 'true'
        WHEN 'through' THEN format('EXISTS (SELECT FROM call_sessions AS call WHERE call.id = %s.%I)', relation, call_key)
        ELSE format(
            'CASE (SELECT sees FROM reader_scope()) WHEN ''all'' THEN true '
            'WHEN ''tenant'' THEN tenant_id = (SELECT tenant FROM reader_scope()) ELSE %s END',
            CASE rule
                WHEN 'call' THEN format('%I IN (SELECT reader_calls())', call_key)
                WHEN 'user' THEN 'user_id = (SELECT whose FROM reader_scope() WHERE sees IN (''user'', ''participant'')) '
                    'AND (tenant_id = (SELECT tenant FROM reader_scope()) OR (SELECT tenant FROM reader_scope()) IS NULL)'
                WHEN 'chunk' THEN 'EXISTS (SELECT FROM call_rag_chunks AS used '
                    'WHERE used.content_hash = rag_chunk_contents.content_hash '
                    'AND coalesce(used.tenant_id, '''') = rag_chunk_contents.tenant_id '
                    'AND session_month(used.session_id) = rag_chunk_contents.month)'
                ELSE 'false'
            END)
    END
    $$;

-- Close everything of the archive to readers, and open to them what is theirs. It may be run at any time; a migration that
-- makes a table, a view or a materialized view runs it at its end.
CREATE FUNCTION protect_archive() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    ours record;
    part regclass;
    kept_ready name;
BEGIN
    FOR ours IN SELECT * FROM archive_tables() LOOP
        IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = ours.relation) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', ours.relation);
        END IF;
        IF ours.rule <> 'closed' AND NOT EXISTS (
            SELECT FROM pg_policy WHERE polrelid = ours.relation AND polname = 'session_bridge_readers'
        ) THEN
            EXECUTE format('CREATE POLICY session_bridge_readers ON %s FOR SELECT USING (%s)',
                ours.relation, reader_condition(ours.relation, ours.rule, ours.call_key));
            IF ours.rule = 'call' THEN
                EXECUTE format('CREATE POLICY session_bridge_deleted ON %s AS RESTRICTIVE FOR SELECT '
                    'USING (%I NOT IN (SELECT deleted_session_ids()))', ours.relation, ours.call_key);
            END IF;
        END IF;
        FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = ours.relation LOOP
            PERFORM close_partition(part);
        END LOOP;
    END LOOP;
    -- A materialized view has no policies: it is read through a view of the owner's, which filters.
    FOR kept_ready IN SELECT view_name FROM session_bridge_refreshes WHERE to_regclass(quote_ident(view_name)) IS NOT NULL
    LOOP
        PERFORM revoke_grants(quote_ident(kept_ready)::regclass);
        IF to_regclass(quote_ident('tenant_' || kept_ready)) IS NULL THEN
            EXECUTE format(
                'CREATE VIEW %I WITH (security_barrier) AS SELECT * FROM %I WHERE CASE (SELECT sees FROM reader_scope()) '
                'WHEN ''everything'' THEN true WHEN ''all'' THEN true '
                'WHEN ''tenant'' THEN tenant_id = (SELECT tenant FROM reader_scope()) ELSE false END',
                'tenant_' || kept_ready, kept_ready);
        END IF;
    END LOOP;
    PERFORM grant_archive_roles();
END $$;

-- A month is closed in the transaction that makes it. Who writes may have months made, and owns none.
ALTER FUNCTION create_monthly_partition(name, date) RENAME TO attach_monthly_partition;
CREATE FUNCTION create_monthly_partition(parent name, day date) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
    AS $$
DECLARE
    made text := attach_monthly_partition(parent, day);
BEGIN
    IF made IS NOT NULL THEN
        PERFORM close_partition(quote_ident(made)::regclass);
    END IF;
    RETURN made;
END $$;

-- These need what only the owner may do.
ALTER FUNCTION refresh_archive_views(interval) SECURITY DEFINER;
ALTER FUNCTION prepare_semantic_search(text, integer) SECURITY DEFINER;
ALTER FUNCTION forget_embedding_model(text) SECURITY DEFINER;

-- -- search ----------------------------------------------------------------------------------------------------------

-- Under a policy a search would lose its index: PostgreSQL asks the policy first, for it cannot know that a search does
-- not tell of what it sees. So the searches become functions of the owner, which bind the reader's tenant themselves, as
-- `…_for_reader`; the searches of 0003 go on as `…_in_archive`. A user's own few calls are searched under the policies.
DO $outer$
DECLARE
    plain record;
    given text;
    bound text;
BEGIN
    FOR plain IN
        SELECT oid, proname, pg_get_function_arguments(oid) AS arguments,
            pg_get_function_identity_arguments(oid) AS identity, pg_get_function_result(oid) AS result, pronargs,
            array_position(proargnames, 'tenant') AS tenant_place
        FROM pg_proc
        WHERE pronamespace = to_regnamespace(quote_ident(current_schema()))
            AND proname IN ('search_calls', 'search_messages', 'search_chunks', 'search_calls_by_meaning')
    LOOP
        SELECT string_agg('$' || place, ', ' ORDER BY place),
            string_agg(CASE place WHEN plain.tenant_place THEN 'scope.tenant' ELSE '$' || place END, ', ' ORDER BY place)
        INTO given, bound FROM generate_series(1, plain.pronargs) AS place;
        EXECUTE format('ALTER FUNCTION %I(%s) RENAME TO %I', plain.proname, plain.identity, plain.proname || '_in_archive');
        EXECUTE format($create$
            CREATE FUNCTION %1$I(%2$s) RETURNS %3$s
                LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT
                AS $$
            DECLARE
                scope record;
            BEGIN
                SELECT * INTO scope FROM reader_scope();
                IF scope.sees IN ('everything', 'all') THEN
                    RETURN QUERY SELECT found.* FROM %4$I(%5$s) AS found
                        WHERE found.session_id NOT IN (SELECT deleted_session_ids());
                ELSIF scope.sees = 'tenant' AND ($%6$s IS NULL OR $%6$s = scope.tenant) THEN
                    RETURN QUERY SELECT found.* FROM %4$I(%7$s) AS found
                        WHERE found.session_id NOT IN (SELECT deleted_session_ids());
                END IF;
            END $$
            $create$, plain.proname || '_for_reader', plain.arguments, plain.result, plain.proname || '_in_archive',
            given, plain.tenant_place, bound);
        EXECUTE format($create$
            CREATE FUNCTION %1$I(%2$s) RETURNS %3$s
                LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
                AS $$
            BEGIN
                IF (SELECT sees IN ('user', 'participant') FROM reader_scope()) THEN
                    RETURN QUERY SELECT * FROM %4$I(%6$s);
                ELSE
                    RETURN QUERY SELECT * FROM %5$I(%6$s);
                END IF;
            END $$
            $create$, plain.proname, plain.arguments, plain.result, plain.proname || '_in_archive',
            plain.proname || '_for_reader', given);
    END LOOP;
END $outer$;

-- -- roles -----------------------------------------------------------------------------------------------------------

-- Functions that write, and those that are for the owner: no reader runs them. The others run with their caller's rights.
CREATE FUNCTION functions_for_writers() RETURNS SETOF regprocedure
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT oid::regprocedure FROM pg_proc
    WHERE pronamespace = to_regnamespace(quote_ident(current_schema())) AND proname IN (
        'partition_by_month', 'attach_monthly_partition', 'create_monthly_partition', 'create_monthly_partitions',
        'refresh_archive_views', 'prepare_semantic_search', 'forget_embedding_model',
        'batch_insert_conversations', 'upsert_conversation', 'summarize_call', 'number_events', 'grant_credits',
        'make_compatibility_views', 'drop_compatibility_views',
        'months_to_retire', 'retire_calls', 'forget_calls', 'entomb', 'drop_monthly_partition', 'cleanup_old_partitions',
        'revoke_grants', 'close_partition', 'protect_archive', 'create_archive_roles', 'grant_archive_roles',
        'give_archive_to', 'let_read', 'stop_reading'
    )
    $$;

-- Grant the archive's roles what they need and nothing else; nothing where there are none.
CREATE FUNCTION grant_archive_roles() RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    writer name := (SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind = 'writer');
    reader name := (SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind = 'reader');
    ours record;
    part regclass;
    one text;
BEGIN
    FOR one IN SELECT functions_for_writers() LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', one);
        IF writer IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', one, writer);
        END IF;
    END LOOP;
    FOR ours IN SELECT * FROM archive_tables() LOOP
        IF writer IS NOT NULL THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', ours.relation, writer);
            FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = ours.relation LOOP
                EXECUTE format('GRANT SELECT ON %s TO %I', part, writer);
            END LOOP;
        END IF;
        IF reader IS NOT NULL AND ours.rule <> 'closed' THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', ours.relation, reader);
        END IF;
    END LOOP;
    IF writer IS NOT NULL THEN
        -- Who reads what, and what was migrated, is the owner's to say.
        REVOKE INSERT, UPDATE, DELETE ON session_bridge_readers, session_bridge_roles, session_bridge_archive,
            session_bridge_partitioned_tables, session_bridge_migrations FROM PUBLIC;
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON session_bridge_readers, session_bridge_roles, '
            'session_bridge_archive, session_bridge_partitioned_tables, session_bridge_migrations FROM %I', writer);
    END IF;
    FOREACH one IN ARRAY array_remove(ARRAY[writer, reader], NULL) LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), one);
    END LOOP;
    FOR one IN
        SELECT archive_views()::text
        UNION ALL SELECT format('%I.%I', current_schema(), 'tenant_' || view_name) FROM session_bridge_refreshes
        WHERE to_regclass(quote_ident('tenant_' || view_name)) IS NOT NULL
    LOOP
        IF writer IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', one, writer);
        END IF;
        IF reader IS NOT NULL THEN
            EXECUTE format('GRANT SELECT ON %s TO %I', one, reader);
        END IF;
    END LOOP;
    FOR one IN SELECT schema_name FROM session_bridge_compatibility WHERE reader IS NOT NULL LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', one, reader);
    END LOOP;
END $$;

-- Make the roles <prefix>_owner, <prefix>_writer and <prefix>_reader, where they are missing, and grant them what they
-- need. None can log in: logins are made members. To be run by who may make roles and is above the tables' owner.
--
-- The writer is above row level security, because PostgreSQL takes no COPY under it. Only who has that attribute may
-- give it; returned is what could not be done, or null.
CREATE FUNCTION create_archive_roles(prefix name) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    which text;
    role name;
    told text;
BEGIN
    FOREACH which IN ARRAY ARRAY['owner', 'writer', 'reader'] LOOP
        role := prefix || '_' || which;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', role);
        END IF;
        INSERT INTO session_bridge_roles VALUES (which, role) ON CONFLICT (kind) DO UPDATE SET role_name = excluded.role_name;
    END LOOP;
    BEGIN
        EXECUTE format('ALTER ROLE %I BYPASSRLS', prefix || '_writer');
    EXCEPTION WHEN insufficient_privilege THEN
        told := format('%s could not be given BYPASSRLS: let a superuser do it, or let the worker connect as the owner',
            prefix || '_writer');
    END;
    PERFORM protect_archive();
    RETURN told;
END $$;

-- Make a role the owner of all that is the archive's. Only in a schema of its own: of what others made in the same
-- schema this cannot tell the functions.
CREATE FUNCTION give_archive_to(new_owner name) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    home regnamespace := to_regnamespace(quote_ident(current_schema()));
    foreign_tables text;
    one text;
BEGIN
    SELECT string_agg(relname, ', ') INTO foreign_tables FROM pg_class
    WHERE relnamespace = home AND relkind IN ('r', 'p') AND NOT relispartition
        AND oid NOT IN (SELECT relation FROM archive_tables());
    IF foreign_tables IS NOT NULL THEN
        RAISE EXCEPTION 'schema % has tables of others (%)', current_schema(), foreign_tables
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'run migrate as a role that shall own the archive, in a schema of its own';
    END IF;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %s TO %I', home, new_owner);
    FOR one IN
        SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, new_owner) FROM pg_proc
        WHERE pronamespace = home AND prokind = 'f' AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype IN ('e', 'i'))
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO %I', oid::regtype, new_owner) FROM pg_type
        WHERE typnamespace = home AND typtype = 'r'
        UNION ALL
        SELECT format('ALTER %s %s OWNER TO %I', CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'v' THEN 'VIEW'
            ELSE 'TABLE' END, oid::regclass, new_owner)
        FROM pg_class WHERE relnamespace = home AND relkind IN ('r', 'p', 'v', 'm') AND NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
        UNION ALL
        SELECT format('ALTER VIEW %s OWNER TO %I', shown, new_owner) FROM archive_views() AS shown
        WHERE (SELECT relnamespace FROM pg_class WHERE oid = shown) <> home
    LOOP
        EXECUTE one;
    END LOOP;
END $$;

-- Let a role read: all, one tenant's calls, or one user's (of one tenant, where that is named too), with those the user
-- took part in or without. `…_from` are expressions, for a service alone.
CREATE FUNCTION let_read(
    reader name,
    sees text DEFAULT 'tenant',
    tenant text DEFAULT NULL,
    whose text DEFAULT NULL,
    tenant_from text DEFAULT NULL,
    user_from text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
#variable_conflict use_column
DECLARE
    readers name := (SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind = 'reader');
    given text;
BEGIN
    IF readers IS NULL THEN
        RAISE EXCEPTION 'this archive has no roles yet' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'run `session-bridge roles create`';
    END IF;
    IF EXISTS (
        SELECT FROM pg_roles WHERE rolname = $1 AND (rolsuper OR rolbypassrls OR pg_has_role(
            oid, (SELECT relowner FROM pg_class WHERE pg_class.oid = 'call_sessions'::regclass), 'MEMBER'))
    ) THEN
        RAISE EXCEPTION 'role % is above row level security', $1 USING ERRCODE = 'invalid_parameter_value',
            HINT = 'take a role that is no superuser, has no BYPASSRLS, and is no member of the tables'' owner';
    END IF;
    -- A typing error is told now, and not to every query of the reader.
    FOREACH given IN ARRAY array_remove(ARRAY[$5, $6], NULL) LOOP
        EXECUTE format('SELECT (%s)::text', given);
    END LOOP;
    EXECUTE format('GRANT %I TO %I', readers, $1);
    INSERT INTO session_bridge_readers (role_name, sees, tenant_id, user_id, tenant_from, user_from)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (role_name) DO UPDATE SET sees = excluded.sees, tenant_id = excluded.tenant_id,
        user_id = excluded.user_id, tenant_from = excluded.tenant_from, user_from = excluded.user_from;
END $$;

-- Take it back; false for a role that nobody let read.
CREATE FUNCTION stop_reading(reader name) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    readers name := (SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind = 'reader');
BEGIN
    DELETE FROM session_bridge_readers WHERE role_name = reader;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF readers IS NOT NULL AND EXISTS (SELECT FROM pg_roles WHERE rolname = reader) THEN
        EXECUTE format('REVOKE %I FROM %I', readers, reader);
    END IF;
    RETURN true;
END $$;

-- What stands open that should not, a line each; for doctor and for a person with psql.
CREATE FUNCTION archive_exposures() RETURNS TABLE (what text, problem text)
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    WITH parts AS (
        SELECT ours.relation, inhrelid AS part FROM archive_tables() AS ours JOIN pg_inherits ON inhparent = ours.relation
    ), open_to AS (
        SELECT pg_class.oid, pg_class.relkind, given.grantee FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) AS given
        WHERE given.privilege_type = 'SELECT' AND given.grantee <> relowner AND NOT EXISTS (
            SELECT FROM session_bridge_roles JOIN pg_roles ON rolname = role_name
            WHERE kind = 'writer' AND pg_roles.oid = given.grantee)
    ), protected AS (SELECT relation AS oid FROM archive_tables() UNION ALL SELECT part FROM parts)
    SELECT oid::regclass::text, 'has no row level security' FROM pg_class
    WHERE oid IN (SELECT oid FROM protected) AND NOT relrowsecurity
    UNION ALL
    SELECT DISTINCT part::regclass::text, 'a partition that others may read' FROM parts JOIN open_to ON open_to.oid = part
    UNION ALL
    SELECT DISTINCT oid::regclass::text, 'a materialized view that others may read' FROM open_to
    WHERE relkind = 'm' AND oid IN (SELECT to_regclass(quote_ident(view_name)) FROM session_bridge_refreshes)
    UNION ALL
    SELECT DISTINCT shown.oid::regclass::text, 'a view over calls, with its owner''s rights, that others may read'
    FROM open_to AS shown
    JOIN pg_rewrite ON ev_class = shown.oid
    JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid AND refclassid = 'pg_class'::regclass
    WHERE shown.relkind = 'v' AND refobjid IN (SELECT oid FROM protected)
        AND shown.oid NOT IN (SELECT archive_views())
    UNION ALL
    SELECT role_name, 'a reader that is above row level security' FROM session_bridge_readers
    JOIN pg_roles ON rolname = role_name
    WHERE rolsuper OR rolbypassrls OR pg_has_role(
        pg_roles.oid, (SELECT relowner FROM pg_class WHERE pg_class.oid = 'call_sessions'::regclass), 'MEMBER')
    ORDER BY 1, 2
    $$;

SELECT protect_archive();
