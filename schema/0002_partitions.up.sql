-- Months: how a partitioned table gets its partitions, and the first of them.
--
-- A month is made as a table of its own and then attached, because ATTACH lets writers of other months go on where
-- CREATE TABLE … PARTITION OF shuts the whole table. What it does need is the default partition, alone and for a
-- moment: PostgreSQL looks through it for rows that belong to the new month. So it is asked for with a short patience,
-- kept for one table and one month, and moved out of the way of a long reader by trying again another time.

-- The tables that have months. The catalogue says which tables are partitioned, but not which of them are ours: an
-- application that shares this schema may have its own. A table enters by partition_by_month(), in the migration that
-- makes it.
CREATE TABLE session_bridge_partitioned_tables (
    table_name name PRIMARY KEY,
    key_column name NOT NULL,
    key_type   text NOT NULL CHECK (key_type IN ('uuid', 'date'))
);

-- Give a table its default partition, and months from now on. Its key must be one column: a session id, or a date.
CREATE FUNCTION partition_by_month(parent name) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
BEGIN
    INSERT INTO session_bridge_partitioned_tables
    SELECT parent, key.attname, format_type(key.atttypid, NULL)
    FROM pg_partitioned_table AS partitioned
    JOIN pg_attribute AS key ON key.attrelid = partitioned.partrelid AND key.attnum = partitioned.partattrs[0]
    WHERE partitioned.partrelid = to_regclass(quote_ident(parent))
        AND partitioned.partstrat = 'r' AND partitioned.partnatts = 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not partitioned by the range of one column', parent;
    END IF;
    EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', parent || '_default', parent);
END $$;

-- The partitions that are wanted and not there, the earliest months first.
CREATE FUNCTION missing_monthly_partitions(months_ahead integer DEFAULT 3, months_back integer DEFAULT 2)
    RETURNS TABLE (parent name, month date)
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT ours.table_name, wanted.month
    FROM session_bridge_partitioned_tables AS ours
    CROSS JOIN generate_series(-months_back, months_ahead) AS step
    CROSS JOIN LATERAL (
        SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => step))::date AS month
    ) AS wanted
    WHERE to_regclass(quote_ident(ours.table_name)) IS NOT NULL
        AND NOT EXISTS (
            SELECT FROM pg_inherits
            WHERE inhparent = to_regclass(quote_ident(ours.table_name))
                AND inhrelid = to_regclass(quote_ident(ours.table_name || to_char(wanted.month, '"_y"YYYY"m"MM')))
        )
    ORDER BY wanted.month, ours.table_name
    $$;

-- Make the partition of the month that a day lies in; its name, or null if it is there or is being made.
--
-- The patience is shorter than deadlock_timeout, so that the one who gives way is this function and not a writer, and
-- an autovacuum is left to finish.
CREATE FUNCTION create_monthly_partition(parent name, day date) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout TO '500ms'
    AS $$
DECLARE
    first_day date := date_trunc('month', day::timestamp)::date;
    next_first_day date := first_day + interval '1 month';
    partition name := parent || to_char(first_day, '"_y"YYYY"m"MM');
    fallback name := parent || '_default';
    key_column name;
    key_type text;
    lower_bound text;
    upper_bound text;
    columns text;
    written boolean;
BEGIN
    SELECT ours.key_column, ours.key_type INTO STRICT key_column, key_type
    FROM session_bridge_partitioned_tables AS ours WHERE ours.table_name = parent;

    -- Another session that holds this is making the very same partition; there is nothing to wait for.
    IF NOT pg_try_advisory_xact_lock(
        hashtextextended(format('session-bridge partition %s.%s', current_schema(), partition), 0)
    ) THEN
        RETURN NULL;
    END IF;
    -- A statement of its own, so that it sees what the last holder committed; and the catalogue's rows, because
    -- to_regclass() answers from a cache.
    IF EXISTS (
        SELECT FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = quote_ident(parent)::regclass AND relname = partition
    ) THEN
        RETURN NULL;
    END IF;

    IF key_type = 'uuid' THEN
        lower_bound := session_id_floor(first_day::timestamp AT TIME ZONE 'UTC');
        upper_bound := session_id_floor(next_first_day::timestamp AT TIME ZONE 'UTC');
    ELSE
        lower_bound := to_char(first_day, 'YYYY-MM-DD');
        upper_bound := to_char(next_first_day, 'YYYY-MM-DD');
    END IF;

    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    -- pg_cron may run this as a superuser; whoever owns the table must still be able to drop its months.
    EXECUTE format('ALTER TABLE %I OWNER TO %I', partition, (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = quote_ident(parent)::regclass
    ));

    -- This lock stops no reader and no writer, only the maker of another month of this table.
    EXECUTE format('LOCK TABLE ONLY %I IN SHARE UPDATE EXCLUSIVE MODE', parent);

    -- A writer who waits for the default partition goes on with a row that the new month has just taken from it, and
    -- is refused (23514). Nobody writes a month before it comes; of one that is being written the writers are sent to
    -- wait earlier, at the parent. Then the default partition must be free almost at once, or all of them would wait
    -- for its reader.
    EXECUTE format('SELECT EXISTS (SELECT FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L)',
        fallback, key_column, lower_bound, upper_bound) INTO written;
    IF written OR first_day <= (now() AT TIME ZONE 'UTC')::date + 2 THEN
        EXECUTE format('LOCK TABLE ONLY %I IN SHARE ROW EXCLUSIVE MODE', parent);
        PERFORM set_config('lock_timeout', '100ms', true);
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', fallback);

    -- A generated column is computed again and cannot be written.
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
    FROM pg_attribute
    WHERE attrelid = quote_ident(parent)::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    EXECUTE format(
        'WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING %5$s) '
        'INSERT INTO %6$I (%5$s) SELECT %5$s FROM moved',
        fallback, key_column, lower_bound, upper_bound, columns, partition
    );
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, lower_bound, upper_bound
    );
    RETURN partition;
END $$;

-- Make every missing partition and return the names of those made: for pg_cron, and for a person with psql.
--
-- A function is one transaction, so the locks on the default partitions add up until its end. The worker asks for the
-- missing ones and makes each in a transaction of its own instead; here that matters little, because a scheduled run
-- makes one month and finds the default partitions empty. A table that is being read at length is left for next time.
CREATE FUNCTION create_monthly_partitions(months_ahead integer DEFAULT 3, months_back integer DEFAULT 2)
    RETURNS SETOF text
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    missing record;
    made text;
    busy name[] := '{}';
BEGIN
    FOR missing IN SELECT * FROM missing_monthly_partitions(months_ahead, months_back) LOOP
        CONTINUE WHEN missing.parent = ANY (busy);
        BEGIN
            made := create_monthly_partition(missing.parent, missing.month);
            IF made IS NOT NULL THEN
                RETURN NEXT made;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            busy := busy || missing.parent;
            RAISE WARNING 'table % is in use: its months are left for the next run', missing.parent;
        END;
    END LOOP;
END $$;

SELECT partition_by_month(parent)
FROM unnest(ARRAY[
    'call_sessions',
    'call_transcripts',
    'call_messages',
    'call_transitions',
    'call_metrics',
    'call_rag_retrievals',
    'call_rag_chunks',
    'call_extracted_variables',
    'call_user_interruptions',
    'call_tool_calls',
    'call_participants',
    'call_cost_events',
    'call_recordings',
    'call_cost_breakdowns',
    'call_analysis',
    'call_events',
    'call_journal',
    'rag_chunk_contents'
]) AS parent;

SELECT create_monthly_partitions();
