-- Takes the policies away, and with them what roles were granted: without the policies a reader would see everything.
-- The roles themselves stay, for they belong to the server.
DO $$
DECLARE
    ours record;
    policy name;
    part regclass;
    kept_ready name;
    role name;
    one text;
BEGIN
    FOR ours IN SELECT * FROM archive_tables() LOOP
        FOR policy IN SELECT polname FROM pg_policy WHERE polrelid = ours.relation AND polname LIKE 'session\_bridge\_%' LOOP
            EXECUTE format('DROP POLICY %I ON %s', policy, ours.relation);
        END LOOP;
        PERFORM revoke_grants(ours.relation);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', ours.relation);
        FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = ours.relation LOOP
            PERFORM revoke_grants(part);
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', part);
        END LOOP;
    END LOOP;
    FOR one IN SELECT archive_views()::text LOOP
        PERFORM revoke_grants(one::regclass);
    END LOOP;
    FOR kept_ready IN SELECT view_name FROM session_bridge_refreshes LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I', 'tenant_' || kept_ready);
    END LOOP;
    FOR role IN SELECT role_name FROM session_bridge_roles JOIN pg_roles ON rolname = role_name WHERE kind <> 'owner' LOOP
        FOR one IN SELECT functions_for_writers() LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I', one, role);
        END LOOP;
        FOR one IN SELECT current_schema() UNION ALL SELECT schema_name FROM session_bridge_compatibility LOOP
            EXECUTE format('REVOKE ALL ON SCHEMA %I FROM %I', one, role);
        END LOOP;
    END LOOP;
    FOR one IN SELECT functions_for_writers() LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', one);
    END LOOP;
    FOR one IN
        SELECT format('DROP FUNCTION %s', oid::regprocedure) FROM pg_proc
        WHERE pronamespace = to_regnamespace(quote_ident(current_schema())) AND proname ~
            '^(search_calls|search_messages|search_chunks|search_calls_by_meaning)(_for_reader)?$'
        UNION ALL
        SELECT format('ALTER FUNCTION %s RENAME TO %I', oid::regprocedure, regexp_replace(proname, '_in_archive$', ''))
        FROM pg_proc
        WHERE pronamespace = to_regnamespace(quote_ident(current_schema())) AND proname ~
            '^(search_calls|search_messages|search_chunks|search_calls_by_meaning)_in_archive$'
    LOOP
        EXECUTE one;
    END LOOP;
END $$;
ALTER FUNCTION forget_embedding_model(text) SECURITY INVOKER;
ALTER FUNCTION prepare_semantic_search(text, integer) SECURITY INVOKER;
ALTER FUNCTION refresh_archive_views(interval) SECURITY INVOKER;
DROP FUNCTION create_monthly_partition(name, date);
ALTER FUNCTION attach_monthly_partition(name, date) RENAME TO create_monthly_partition;
DROP FUNCTION archive_exposures();
DROP FUNCTION stop_reading(name);
DROP FUNCTION let_read(name, text, text, text, text, text);
DROP FUNCTION give_archive_to(name);
DROP FUNCTION create_archive_roles(name);
DROP FUNCTION grant_archive_roles();
DROP FUNCTION functions_for_writers();
DROP FUNCTION protect_archive();
DROP FUNCTION reader_condition(regclass, text, name);
DROP FUNCTION close_partition(regclass);
DROP FUNCTION revoke_grants(regclass);
DROP FUNCTION archive_views();
DROP FUNCTION archive_tables();
DROP FUNCTION deleted_session_ids();
DROP FUNCTION reader_calls();
DROP INDEX call_participants_user;
DROP FUNCTION current_tenant();
DROP FUNCTION reader_scope();
DROP TABLE session_bridge_roles;
DROP TABLE session_bridge_readers;
