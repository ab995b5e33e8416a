-- name: relations
-- What there is in the archive's schema, and of what kind.
SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace;

-- name: functions
-- The functions in it.
SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = current_schema()::regnamespace;

-- name: triggers
-- The triggers of its tables that fire.
SELECT tgname::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE relnamespace = current_schema()::regnamespace AND NOT tgisinternal AND tgenabled <> 'D';

-- name: without_key
-- Tables of ours without a primary key.
SELECT relname::text FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(%(tables)s)
    AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)
ORDER BY 1;

-- name: identities
-- How many archives this one says to be.
SELECT archive_id::text FROM session_bridge_archive;

-- name: invalid_indexes
-- Indexes of our tables and of their partitions that PostgreSQL does not use.
SELECT index.relname::text FROM pg_index
JOIN pg_class AS index ON index.oid = indexrelid
JOIN pg_class AS owner ON owner.oid = indrelid
LEFT JOIN pg_inherits ON inhrelid = owner.oid
LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE owner.relnamespace = current_schema()::regnamespace
    AND coalesce(parent.relname, owner.relname) = ANY(%(tables)s) AND NOT (indisvalid AND indisready)
ORDER BY 1;

-- name: indexes
-- The indexes of our tables, those of constraints and unique ones left out; how often each was used, its partitions' together.
SELECT index.relname::text, (
    SELECT coalesce(sum(coalesce(idx_scan, 0)), 0)::bigint
    FROM pg_partition_tree(index.oid) AS part JOIN pg_stat_all_indexes AS used ON used.indexrelid = part.relid
) + coalesce((SELECT idx_scan FROM pg_stat_all_indexes AS used WHERE used.indexrelid = index.oid), 0)
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid JOIN pg_class AS owner ON owner.oid = indrelid
WHERE owner.relnamespace = current_schema()::regnamespace AND owner.relname = ANY(%(tables)s)
    AND NOT owner.relispartition AND NOT indisunique
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = index.oid)
ORDER BY 1;

-- name: counted_for_days
-- For how many days the server has counted the uses of indexes.
SELECT extract(epoch FROM now() - coalesce(stats_reset, pg_postmaster_start_time())) / 86400
FROM pg_stat_database WHERE datname = current_database();

-- name: missing_months
-- Months of our tables that are wanted and have no partition.
SELECT parent::text, month FROM missing_monthly_partitions(1, 0);

-- name: unattached
-- Tables that are named as a month of one of ours, and are not among its partitions: nobody reads what is in them.
SELECT month.relname::text
FROM session_bridge_partitioned_tables AS ours
JOIN pg_class AS month ON month.relnamespace = current_schema()::regnamespace AND month.relkind = 'r'
    AND month.relname ~ ('^' || ours.table_name || '_(y\d{4}m\d{2}|default)$')
WHERE NOT month.relispartition
ORDER BY 1;

-- name: defaults
-- The default partition of each of our tables; null where there is none.
SELECT ours.table_name::text, partition.relname::text
FROM session_bridge_partitioned_tables AS ours
JOIN pg_class AS parent ON parent.relnamespace = current_schema()::regnamespace AND parent.relname = ours.table_name
JOIN pg_partitioned_table AS partitioned ON partitioned.partrelid = parent.oid
LEFT JOIN pg_class AS partition ON partition.oid = partitioned.partdefid
ORDER BY 1;

-- name: holds_rows
-- Whether a table has a row.
SELECT EXISTS (SELECT FROM {table});

-- name: open_to_all
-- Tables with a tenant, partitions too, whose rows any reader sees.
SELECT owner.relname::text FROM pg_class AS owner
WHERE owner.relnamespace = current_schema()::regnamespace AND owner.relkind IN ('r', 'p') AND NOT owner.relrowsecurity
    AND NOT owner.relispartition
    AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = owner.oid AND attname = 'tenant_id' AND NOT attisdropped)
    AND owner.relname = ANY(%(tables)s)
ORDER BY 1;

-- name: refreshes
-- The materialized views: when each was refreshed last, whether it can be read, and the latest drain.
SELECT refresh.view_name::text, extract(epoch FROM now() - refresh.refreshed_at), coalesce(relispopulated, false),
    coalesce((SELECT archived_at FROM call_sessions ORDER BY archived_at DESC LIMIT 1) > refresh.refreshed_at, false)
FROM session_bridge_refreshes AS refresh
LEFT JOIN pg_class ON relnamespace = current_schema()::regnamespace AND relname = view_name
ORDER BY 1;

-- name: duplicate_entries
-- Entries of the book that are there twice, or that name a session together with another entry.
SELECT count(*), min(call_sid) FROM (
    SELECT min(call_sid) AS call_sid FROM call_sids GROUP BY session_id HAVING count(*) > 1
    UNION ALL
    SELECT call_sid FROM call_sids GROUP BY call_sid, generation HAVING count(*) > 1
) AS twice;

-- name: entries_without_call
-- Entries of the book that say a call is archived, and it is not.
SELECT count(*), min(call_sid) FROM call_sids AS book {sampled}
WHERE state IN ('archived', 'checkpointed', 'lost') AND drains > 0
    AND NOT EXISTS (SELECT FROM call_sessions WHERE id = book.session_id);

-- name: dead_without_session
-- Calls that the book calls dead, and whose fields are nowhere.
SELECT count(*), min(call_sid) FROM call_sids AS book
WHERE state = 'dead' AND NOT EXISTS (
    SELECT FROM dead_sessions AS kept WHERE kept.call_sid = book.call_sid AND kept.retried_at IS NULL);

-- name: untrue_balances
-- Accounts whose balance is not the sum of their entries, and entries that do not begin where the one before ended.
SELECT count(*) FROM (
    SELECT coalesce(user_credits.balance_cents, 0) AS balance, coalesce(entered.cents, 0) AS cents
    FROM user_credits FULL JOIN (
        SELECT tenant_id, user_id, currency, sum(amount_cents) AS cents FROM credit_transactions GROUP BY 1, 2, 3
    ) AS entered USING (tenant_id, user_id, currency)
) AS account WHERE balance <> cents
UNION ALL
SELECT count(*) FROM (
    SELECT balance_before, lag(balance_after, 1, 0.0) OVER (
        PARTITION BY tenant_id, user_id, currency ORDER BY id) AS left_before
    FROM credit_transactions
) AS entry WHERE balance_before <> left_before;

-- name: rows_of
-- About how many rows the book has.
SELECT greatest(reltuples, pg_relation_size(oid) / 200.0) FROM pg_class WHERE oid = 'call_sids'::regclass;

-- name: a_call
-- A call to ask for, and a user who has calls: the latest.
SELECT call_sid, (SELECT user_id FROM call_sessions WHERE user_id IS NOT NULL ORDER BY id DESC LIMIT 1)
FROM call_sessions ORDER BY id DESC LIMIT 1;

-- name: a_vector
-- A vector to ask with, and what it was embedded by.
SELECT model, embedding, dimension FROM call_embeddings LIMIT 1;

-- name: vector_index
-- The index of a model, where it is.
SELECT semantic_index_name(%(model)s, %(dimension)s)::text,
    to_regclass(quote_ident(semantic_index_name(%(model)s, %(dimension)s))) IS NOT NULL, vector_type, distance
FROM embedding_type(%(dimension)s);

-- name: roots
-- What each index of a partition is a part of.
SELECT index.relname::text, root.relname::text FROM pg_class AS index
JOIN pg_class AS root ON root.oid = pg_partition_root(index.oid)
WHERE index.relnamespace = current_schema()::regnamespace AND index.relkind IN ('i', 'I') AND index.relispartition;

-- name: a_users_calls
-- A user's last calls.
SELECT id, call_sid, started_at, status FROM call_sessions
WHERE user_id = %(user)s ORDER BY id DESC LIMIT 20;

-- name: active_calls
-- The calls that go on.
SELECT * FROM active_calls_summary;

-- name: metadata_of_a_call
-- All that is known of a call beside its events, by its SID.
SELECT to_jsonb(call.*) FROM call_sessions AS call WHERE id = session_id_of(%(sid)s);

-- name: nearest
-- What a search by meaning asks its index for.
SELECT session_id FROM call_embeddings WHERE model = {model}
ORDER BY embedding::{type} {distance} (%(vector)s::real[])::{type} LIMIT 20;

-- name: search_by_meaning
-- The search itself.
SELECT * FROM search_calls_by_meaning(%(vector)s::real[], %(model)s);
