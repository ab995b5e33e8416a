-- Retention, erasure and deletion: what goes, in which order, and what is left of it in the book.
--
-- A call that is gone for good leaves a tombstone: its row in the book, under a name that is a digest of the call SID
-- (which may itself hold a phone number), with nothing else of the call in it. Who comes later with data of that SID
-- computes the same name, finds the stone, and lets the data go.

-- The name of a call SID's tombstone. The archive's identity is in it, so that no list of digests fits two archives.
CREATE FUNCTION tombstone_of(archive_id uuid, sid text) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN 'retired:' || encode(sha256(convert_to(archive_id::text || ' ' || sid, 'UTF8')), 'hex');

-- Retention goes through the book by month, and never again through what it has retired.
CREATE INDEX call_sids_by_session ON call_sids (session_id) WHERE call_sid NOT LIKE 'retired:%';

-- Calls that are hidden from readers, and are there all the same: a deletion that can be taken back.
CREATE TABLE deleted_calls (
    session_id uuid PRIMARY KEY,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    reason     text
);

-- Tables without months whose rows belong to a call by `session_id`: retention and erasure take their rows too. The
-- catalogue cannot tell them from an application's own, so that a migration that makes one enters it here.
CREATE TABLE session_bridge_call_tables (
    table_name name PRIMARY KEY
);
INSERT INTO session_bridge_call_tables VALUES ('call_session_rejects'), ('dead_sessions'), ('deleted_calls');

-- Months that were retired, where they were exported to, and until when one that was restored is kept.
CREATE TABLE retired_months (
    month       date PRIMARY KEY,
    retired_at  timestamptz NOT NULL DEFAULT now(),
    dropped_at  timestamptz,
    exported_to text,
    row_counts  jsonb,
    restored_at timestamptz,
    keep_until  date
);

-- What an erasure did, without a word of whom it was about.
CREATE TABLE erasure_receipts (
    id        uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    erased_at timestamptz NOT NULL DEFAULT now(),
    asked_by  text NOT NULL CHECK (asked_by IN ('call', 'number', 'user')),
    receipt   jsonb NOT NULL
);

-- Every table whose rows belong to a call, those with months first. Of rag_chunk_contents the key is a month.
CREATE FUNCTION call_tables() RETURNS TABLE (table_name name, key_column name, key_type text, by_month boolean)
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT ours.table_name, ours.key_column, ours.key_type, true
    FROM session_bridge_partitioned_tables AS ours WHERE to_regclass(quote_ident(ours.table_name)) IS NOT NULL
    UNION ALL
    SELECT ours.table_name, 'session_id', 'uuid', false
    FROM session_bridge_call_tables AS ours WHERE to_regclass(quote_ident(ours.table_name)) IS NOT NULL
    ORDER BY 4 DESC, 1
    $$;

-- -- retention -------------------------------------------------------------------------------------------------------

-- The first day of the earliest month that is kept: so many whole months before the present one. Whatever is asked for,
-- a month is kept until no new call can be given an id in it (35 days back, and one to spare).
CREATE FUNCTION retention_cutoff(keep_months integer) RETURNS date
    LANGUAGE sql STABLE STRICT
    RETURN least(
        date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => keep_months),
        date_trunc('month', now() AT TIME ZONE 'UTC' - interval '36 days')
    )::date;

-- The months that are due to go: those with a partition, with rows in a default partition, or with calls in the book.
CREATE FUNCTION months_to_retire(keep_months integer DEFAULT 12) RETURNS SETOF date
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
    AS $$
DECLARE
    cutoff date := retention_cutoff(keep_months);
    least_kept uuid := session_id_floor(cutoff::timestamp AT TIME ZONE 'UTC');
    ours record;
    found date[];
    months date[];
BEGIN
    SELECT array_agg(DISTINCT to_date(right(child.relname, 8), '"y"YYYY"m"MM')) INTO months
    FROM session_bridge_partitioned_tables AS parent
    JOIN pg_inherits ON inhparent = to_regclass(quote_ident(parent.table_name))
    JOIN pg_class AS child ON child.oid = inhrelid
    WHERE child.relname ~ '_y\d{4}m\d{2}$';
    FOR ours IN SELECT * FROM call_tables() WHERE by_month LOOP
        EXECUTE format(
            CASE ours.key_type
                WHEN 'uuid' THEN 'SELECT array_agg(DISTINCT session_month(%1$I)) FROM %2$I WHERE %1$I < $1'
                ELSE 'SELECT array_agg(DISTINCT %1$I) FROM %2$I WHERE %1$I < $2'
            END, ours.key_column, ours.table_name || '_default'
        ) INTO found USING least_kept, cutoff;
        months := months || found;
    END LOOP;
    RETURN QUERY
        SELECT DISTINCT due.month FROM (
            SELECT unnest(months) AS month
            UNION
            SELECT session_month(session_id) FROM call_sids
            WHERE call_sid NOT LIKE 'retired:%' AND session_id < least_kept
        ) AS due
        WHERE due.month < cutoff
            AND NOT EXISTS (
                SELECT FROM retired_months AS kept WHERE kept.month = due.month AND kept.keep_until >= current_date
            )
        ORDER BY 1;
END $$;

-- The bounds of a month, for the key of a session.
CREATE FUNCTION month_floor(month date) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN session_id_floor(date_trunc('month', month::timestamp) AT TIME ZONE 'UTC');
CREATE FUNCTION month_ceiling(month date) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN session_id_floor((date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC');

-- Mark the next calls of a month as retired: from the commit on no drain writes them any more. Returns how many were
-- looked at, and the last of them, to go on after.
CREATE FUNCTION retire_calls(
    month date, INOUT last_session uuid DEFAULT NULL, at_most integer DEFAULT 1000, OUT looked_at integer
)
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    page uuid[];
    first_session uuid := last_session;
BEGIN
    SELECT array_agg(session_id), count(*), max(session_id::text)::uuid INTO page, looked_at, last_session FROM (
        SELECT session_id FROM call_sids
        WHERE call_sid NOT LIKE 'retired:%'
            AND session_id >= month_floor(month) AND session_id < month_ceiling(month)
            AND (first_session IS NULL OR session_id > first_session)
        ORDER BY session_id LIMIT at_most
    ) AS following;
    -- In the order in which drains lock them.
    PERFORM FROM call_sids WHERE session_id = ANY (page) AND call_sid NOT LIKE 'retired:%'
        ORDER BY call_sid, generation FOR UPDATE;
    UPDATE call_sids SET state = 'retired'
    WHERE session_id = ANY (page) AND call_sid NOT LIKE 'retired:%' AND state <> 'retired';
END $$;

-- Put tombstones in the place of these calls, all of which must be locked. `why` is 'retired' or 'erased'.
CREATE FUNCTION entomb(session_ids uuid[], why text) RETURNS integer
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    entombed integer;
BEGIN
    UPDATE call_sids AS book SET
        call_sid = stone.name,
        -- A SID that was used again may have a stone already.
        generation = book.generation + coalesce(
            (SELECT max(earlier.generation) FROM call_sids AS earlier WHERE earlier.call_sid = stone.name), 0),
        -- Of an erased call not even the id is kept, only its month.
        session_id = CASE why WHEN 'erased' THEN (
            left(month_floor(session_month(book.session_id))::text, 14) || '7' || substr(gen_random_uuid()::text, 16)
        )::uuid ELSE book.session_id END,
        tenant_id = NULL,
        state = 'retired',
        status = why,
        started_at = NULL,
        -- What begins after this moment under the same SID is another call.
        ended_at = now(),
        last_activity_at = NULL,
        checkpointed_at = NULL,
        archived_at = NULL,
        fingerprint = NULL,
        first_seen_at = now(),
        last_seen_at = now(),
        last_change_at = now()
    FROM (
        SELECT dying.call_sid, dying.generation, tombstone_of(archive.archive_id, dying.call_sid) AS name
        FROM call_sids AS dying CROSS JOIN session_bridge_archive AS archive
        WHERE dying.session_id = ANY (session_ids) AND dying.call_sid NOT LIKE 'retired:%'
    ) AS stone
    WHERE book.call_sid = stone.call_sid AND book.generation = stone.generation;
    GET DIAGNOSTICS entombed = ROW_COUNT;
    RETURN entombed;
END $$;

-- Put tombstones in the place of the next calls of a month, and take their rows from the tables that have no months.
-- Returns how many; 0 when there are none left.
CREATE FUNCTION forget_calls(month date, at_most integer DEFAULT 1000) RETURNS integer
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    page uuid[];
    ours record;
BEGIN
    SELECT array_agg(session_id) INTO page FROM (
        SELECT session_id FROM call_sids
        WHERE call_sid NOT LIKE 'retired:%'
            AND session_id >= month_floor(month) AND session_id < month_ceiling(month)
        LIMIT at_most
    ) AS following;
    IF page IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM FROM call_sids WHERE session_id = ANY (page) AND call_sid NOT LIKE 'retired:%'
        ORDER BY call_sid, generation FOR UPDATE;
    FOR ours IN SELECT * FROM call_tables() WHERE NOT by_month LOOP
        EXECUTE format('DELETE FROM %I WHERE session_id = ANY ($1)', ours.table_name) USING page;
    END LOOP;
    RETURN entomb(page, 'retired');
END $$;

-- Drop the partition of a month, and take the month's rows from the default partition. Returns its name, or null where
-- there was none.
--
-- PostgreSQL wants the whole table for it, for a moment; DETACH … CONCURRENTLY does not, but is not to be had beside a
-- default partition. So it asks with a patience that no drain notices, and whoever calls tries again another time. The
-- files themselves go after the locks are released.
CREATE FUNCTION drop_monthly_partition(parent name, month date) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout TO '100ms'
    AS $$
DECLARE
    partition name := parent || to_char(month, '"_y"YYYY"m"MM');
    ours record;
BEGIN
    SELECT * INTO STRICT ours FROM session_bridge_partitioned_tables WHERE table_name = parent;
    EXECUTE format('DELETE FROM %1$I WHERE %2$I >= $1::%3$s AND %2$I < $2::%3$s',
        parent || '_default', ours.key_column, ours.key_type)
    USING
        CASE ours.key_type WHEN 'uuid' THEN month_floor(month)::text ELSE month::text END,
        CASE ours.key_type WHEN 'uuid' THEN month_ceiling(month)::text ELSE (month + interval '1 month')::date::text END;
    IF NOT EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = quote_ident(parent)::regclass AND relname = partition
    ) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', parent);
    EXECUTE format('DROP TABLE %I', partition);
    RETURN partition;
END $$;

-- Retire what is older than so many months, all of it, and return the names of the partitions dropped: for pg_cron, and
-- for a person with psql. Nothing is exported, and all of it is one transaction; `session-bridge retention` exports, and
-- takes it in small steps. A table that is being read at length is left for next time.
CREATE FUNCTION cleanup_old_partitions(keep_months integer DEFAULT 12) RETURNS SETOF text
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    old date;
    ours record;
    dropped text;
    after uuid;
    looked_at integer;
    complete boolean;
BEGIN
    IF keep_months < 1 THEN
        RAISE EXCEPTION 'at least one month is kept, not %', keep_months;
    END IF;
    FOR old IN SELECT * FROM months_to_retire(keep_months) LOOP
        after := NULL;
        LOOP
            SELECT * INTO after, looked_at FROM retire_calls(old, after);
            EXIT WHEN looked_at = 0;
        END LOOP;
        complete := true;
        FOR ours IN SELECT * FROM call_tables() WHERE by_month LOOP
            BEGIN
                dropped := drop_monthly_partition(ours.table_name, old);
                IF dropped IS NOT NULL THEN
                    RETURN NEXT dropped;
                END IF;
            EXCEPTION WHEN lock_not_available THEN
                complete := false;
                RAISE WARNING 'table % is in use: its months are left for the next run', ours.table_name;
            END;
        END LOOP;
        IF complete THEN
            WHILE forget_calls(old) > 0 LOOP
            END LOOP;
            INSERT INTO retired_months (month, dropped_at) VALUES (old, now())
            ON CONFLICT (month) DO UPDATE SET dropped_at = now(), keep_until = NULL;
        END IF;
    END LOOP;
END $$;

-- Past months of which default partitions hold rows, because nobody made them in time.
CREATE FUNCTION late_monthly_partitions() RETURNS TABLE (parent name, month date)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
    AS $$
DECLARE
    ours record;
BEGIN
    FOR ours IN SELECT * FROM session_bridge_partitioned_tables LOOP
        -- Who may not read a table has its late rows moved by its owner.
        CONTINUE WHEN NOT coalesce(
            has_table_privilege(to_regclass(quote_ident(ours.table_name || '_default')), 'SELECT'), false);
        RETURN QUERY EXECUTE format(
            CASE ours.key_type
                WHEN 'uuid' THEN 'SELECT DISTINCT %3$L::name, session_month(%1$I) FROM %2$I WHERE %1$I < month_floor($1)'
                ELSE 'SELECT DISTINCT %3$L::name, date_trunc(''month'', %1$I::timestamp)::date FROM %2$I WHERE %1$I < $1'
            END || ' ORDER BY 2', ours.key_column, ours.table_name || '_default', ours.table_name
        ) USING date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    END LOOP;
END $$;

-- -- what readers see ------------------------------------------------------------------------------------------------

-- Whether a call is hidden from readers.
CREATE FUNCTION call_is_deleted(call uuid) RETURNS boolean
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    BEGIN ATOMIC
        SELECT EXISTS (SELECT FROM deleted_calls WHERE session_id = call);
    END;

-- For each table of calls a view without those that are deleted: visible_call_sessions, visible_call_messages, …
DO $$
DECLARE
    ours record;
BEGIN
    FOR ours IN SELECT * FROM call_tables() WHERE by_month AND key_type = 'uuid' LOOP
        EXECUTE format(
            'CREATE VIEW %I WITH (security_invoker) AS SELECT * FROM %I AS shown WHERE NOT EXISTS '
            '(SELECT FROM deleted_calls WHERE deleted_calls.session_id = shown.%I)',
            'visible_' || ours.table_name, ours.table_name, ours.key_column
        );
    END LOOP;
END $$;
