-- name: calls_of_person
-- Call SIDs in which a person is a party, by a pattern that fits a phone number or a user id in a field that names one.
SELECT call_sid FROM call_sessions
WHERE from_number ~ %(pattern)s OR to_number ~ %(pattern)s OR user_id ~ %(pattern)s OR room_name ~ %(pattern)s
    OR call_sid ~ %(pattern)s OR parent_call_sid ~ %(pattern)s
UNION
SELECT book.call_sid FROM call_participants AS party JOIN call_sids AS book USING (session_id)
WHERE party.identity ~ %(pattern)s OR party.user_id ~ %(pattern)s OR party.name ~ %(pattern)s
UNION
SELECT call_sid FROM call_sids WHERE call_sid ~ %(pattern)s AND call_sid NOT LIKE 'retired:%%'
UNION
SELECT call_sid FROM call_session_rejects
WHERE (field = ANY(%(fields)s) OR field LIKE 'participant:%%') AND encode(raw, 'escape') ~ %(pattern)s
UNION
SELECT dead.call_sid FROM dead_sessions AS dead JOIN dead_session_fields AS part ON part.dead_id = dead.id
WHERE (encode(part.field_raw, 'escape') = ANY(%(fields)s) OR encode(part.field_raw, 'escape') LIKE 'participant:%%')
    AND encode(part.raw, 'escape') ~ %(pattern)s
UNION
SELECT call_sid FROM dead_sessions WHERE call_sid ~ %(pattern)s;

-- name: mentions_in_raw
-- Call SIDs whose rejects, dead sessions or chunk texts hold something anywhere.
SELECT call_sid FROM call_session_rejects WHERE encode(raw, 'escape') ~ %(pattern)s
UNION
SELECT dead.call_sid FROM dead_sessions AS dead JOIN dead_session_fields AS part ON part.dead_id = dead.id
WHERE encode(part.raw, 'escape') ~ %(pattern)s OR encode(part.field_raw, 'escape') ~ %(pattern)s
UNION
SELECT book.call_sid FROM call_rag_chunk_texts AS chunk JOIN call_sids AS book USING (session_id)
WHERE chunk.content ~ %(pattern)s;

-- name: reserve_erased
-- Enter call SIDs that the book does not know, so that a drain of one that runs beside this is waited for.
INSERT INTO call_sids (call_sid, session_id, state, first_seen_at, last_seen_at, last_change_at)
SELECT wanted.sid, wanted.session_id, 'retired', now(), now(), now()
FROM session_bridge_archive AS archive
CROSS JOIN unnest(%(call_sids)s::text[], %(session_ids)s::uuid[]) AS wanted (sid, session_id)
WHERE NOT EXISTS (
    SELECT FROM call_sids AS known
    WHERE known.call_sid = ANY(ARRAY[wanted.sid, tombstone_of(archive.archive_id, wanted.sid)]))
ORDER BY wanted.sid
ON CONFLICT DO NOTHING;

-- name: lock_erased
-- Lock every call of these SIDs, in the order of the drains.
SELECT session_id FROM call_sids WHERE call_sid = ANY(%(call_sids)s) ORDER BY call_sid, generation FOR UPDATE;

-- name: sessions_of
-- Calls of these SIDs that are in the archive, whatever the book says.
SELECT id FROM call_sessions WHERE call_sid = ANY(%(call_sids)s);

-- name: call_tables
-- Every table whose rows belong to a call by its session id, and the name of that column.
SELECT table_name, key_column FROM call_tables() WHERE key_type = 'uuid';

-- name: chunk_keys_of
-- Which chunk texts these calls retrieved.
SELECT DISTINCT session_month(session_id), coalesce(tenant_id, ''), content_hash FROM call_rag_chunks
WHERE session_id = ANY(%(session_ids)s) AND content_hash IS NOT NULL;

-- name: erase_dead
-- Dead sessions of these call SIDs, whatever session they belong to.
DELETE FROM dead_sessions WHERE call_sid = ANY(%(call_sids)s);

-- name: entomb_erased
-- Tombstones in the place of these calls.
SELECT entomb(%(session_ids)s::uuid[], 'erased');

-- name: mark_stones_erased
-- Calls of these SIDs that retention took before: what was exported of them must not come back either.
UPDATE call_sids AS stone SET status = 'erased'
FROM session_bridge_archive AS archive, unnest(%(call_sids)s::text[]) AS wanted (sid)
WHERE stone.call_sid = tombstone_of(archive.archive_id, wanted.sid) AND stone.status <> 'erased';

-- name: unused_contents
-- Of these chunk texts of a month, those that no call retrieved.
SELECT wanted.tenant_id, wanted.content_hash
FROM unnest(%(tenant_ids)s::text[], %(hashes)s::bytea[]) AS wanted (tenant_id, content_hash)
WHERE NOT EXISTS (
    SELECT FROM call_rag_chunks AS chunk
    WHERE chunk.session_id >= month_floor(%(month)s::date) AND chunk.session_id < month_ceiling(%(month)s::date)
        AND chunk.content_hash = wanted.content_hash AND coalesce(chunk.tenant_id, '') = wanted.tenant_id);

-- name: drop_contents
-- These chunk texts of a month are used by nobody.
DELETE FROM rag_chunk_contents AS kept
USING unnest(%(tenant_ids)s::text[], %(hashes)s::bytea[]) AS unused (tenant_id, content_hash)
WHERE kept.month = %(month)s AND kept.tenant_id = unused.tenant_id AND kept.content_hash = unused.content_hash;

-- name: keep_receipt
-- What an erasure did.
INSERT INTO erasure_receipts (asked_by, receipt) VALUES (%(asked_by)s, %(receipt)s::jsonb) RETURNING id, erased_at;

-- name: exported_months
-- Months that were exported, and where to.
SELECT month, exported_to FROM retired_months WHERE exported_to IS NOT NULL ORDER BY month;

-- name: delete_call
-- Hide a call from readers.
INSERT INTO deleted_calls (session_id, reason)
SELECT session_id, %(reason)s FROM call_sids
WHERE call_sid = %(call_sid)s AND state IN ('archived', 'checkpointed', 'lost')
ON CONFLICT (session_id) DO NOTHING;

-- name: undelete_call
-- Show a call again.
DELETE FROM deleted_calls USING call_sids AS book
WHERE deleted_calls.session_id = book.session_id AND book.call_sid = %(call_sid)s;

-- name: list_deleted
-- Calls that are hidden, the latest first.
SELECT book.call_sid, book.session_id, hidden.deleted_at, hidden.reason
FROM deleted_calls AS hidden JOIN call_sids AS book USING (session_id)
ORDER BY hidden.deleted_at DESC LIMIT %(limit)s;

-- name: deleted_at
-- Since when a call is hidden.
SELECT deleted_at FROM deleted_calls WHERE session_id = session_id_of(%(call_sid)s);

-- name: months_to_retire
-- The months that are due to go.
SELECT * FROM months_to_retire(%(keep_months)s) AS month ORDER BY month;

-- name: month_rows
-- How many calls of a month stand in the book, not yet entombed.
SELECT count(*) FROM call_sids
WHERE call_sid NOT LIKE 'retired:%%'
    AND session_id >= month_floor(%(month)s::date) AND session_id < month_ceiling(%(month)s::date);

-- name: retire_calls
-- Mark the next calls of a month as retired.
SELECT last_session, looked_at FROM retire_calls(%(month)s::date, %(after)s::uuid, %(at_most)s);

-- name: forget_calls
-- Tombstones in the place of the next calls of a month.
SELECT forget_calls(%(month)s::date, %(at_most)s);

-- name: monthly_tables
-- The tables that have months.
SELECT table_name, key_column, key_type FROM call_tables() WHERE by_month;

-- name: tables_without_months
-- The other tables whose rows belong to a call.
SELECT table_name FROM call_tables() WHERE NOT by_month;

-- name: drop_monthly_partition
-- Drop one table's partition of a month.
SELECT drop_monthly_partition(%(table)s, %(month)s::date);

-- name: note_retired
-- A month is being retired, and where it was exported to.
INSERT INTO retired_months (month, exported_to, row_counts) VALUES (%(month)s, %(folder)s, %(rows)s::jsonb)
ON CONFLICT (month) DO UPDATE SET
    retired_at = now(), keep_until = NULL,
    exported_to = coalesce(excluded.exported_to, retired_months.exported_to),
    row_counts = coalesce(excluded.row_counts, retired_months.row_counts);

-- name: note_dropped
-- A month is gone.
UPDATE retired_months SET dropped_at = now() WHERE month = %(month)s;

-- name: note_restored
-- A month is back, and is kept until that day.
INSERT INTO retired_months (month, restored_at, keep_until) VALUES (%(month)s, now(), %(keep_until)s)
ON CONFLICT (month) DO UPDATE SET restored_at = now(), keep_until = excluded.keep_until, dropped_at = NULL;

-- name: retired_months
-- What became of the months before.
SELECT month, retired_at, dropped_at, exported_to, row_counts, restored_at, keep_until FROM retired_months
ORDER BY month;

-- name: erased_since_export
-- Calls of an exported month that were erased since.
SELECT staged.session_id
FROM session_bridge_archive AS archive, session_bridge_restored AS staged
JOIN call_sids AS stone ON true
WHERE stone.call_sid = tombstone_of(archive.archive_id, staged.call_sid) AND stone.status = 'erased';

-- name: restore_book
-- The book's rows of an exported month, in the place of their tombstones.
WITH wanted AS (
    SELECT * FROM session_bridge_restored WHERE session_id <> ALL(%(erased)s)
), stones AS (
    DELETE FROM call_sids AS stone USING wanted, session_bridge_archive AS archive
    WHERE stone.call_sid = tombstone_of(archive.archive_id, wanted.call_sid) AND stone.session_id = wanted.session_id
)
INSERT INTO call_sids SELECT * FROM wanted ON CONFLICT DO NOTHING;

-- name: restored_states
-- What a restored call was before it was retired.
UPDATE call_sids AS book SET state = CASE
    WHEN EXISTS (SELECT FROM call_sessions WHERE id = book.session_id AND status = 'lost') THEN 'lost'
    WHEN book.drains = 0 AND EXISTS (
        SELECT FROM dead_sessions WHERE session_id = book.session_id AND retried_at IS NULL) THEN 'dead'
    ELSE 'archived' END
WHERE book.call_sid NOT LIKE 'retired:%%' AND book.state = 'retired'
    AND book.session_id >= month_floor(%(month)s::date) AND book.session_id < month_ceiling(%(month)s::date);

-- name: contents_wanted
-- Chunk texts that a restored call retrieved.
EXISTS (
    SELECT FROM call_rag_chunks AS chunk
    WHERE chunk.session_id >= month_floor(staged.month) AND chunk.session_id < month_ceiling(staged.month)
        AND chunk.content_hash = staged.content_hash AND coalesce(chunk.tenant_id, '') = staged.tenant_id);

-- name: try_upkeep
-- Whether nobody else is at it; held until the transaction's end.
SELECT pg_try_advisory_xact_lock(hashtextextended('session-bridge retention ' || current_schema(), 0));

-- name: partition_sizes
-- Every partition, with its rows as the planner estimates them (-1 where it never looked) and its bytes with indexes.
SELECT ours.table_name, child.relname, child.reltuples::bigint, pg_total_relation_size(child.oid)
FROM session_bridge_partitioned_tables AS ours
JOIN pg_inherits ON inhparent = to_regclass(quote_ident(ours.table_name))
JOIN pg_class AS child ON child.oid = inhrelid
ORDER BY ours.table_name, child.relname;

-- name: anonymize_entries
-- A user's entries stay in the books of credits, without the user.
UPDATE credit_transactions SET user_id = %(alias)s, note = NULL WHERE user_id = %(user_id)s RETURNING tenant_id;

-- name: anonymize_balances
-- A user's balances stay too, or the entries would not add up to them.
UPDATE user_credits SET user_id = %(alias)s WHERE user_id = %(user_id)s RETURNING tenant_id;

-- name: erase_budgets
-- A user's budgets go.
DELETE FROM user_budget_settings WHERE user_id = %(user_id)s RETURNING tenant_id;

-- name: tenants
-- Every tenant that the book knows: a user's budget may be told under any of them.
SELECT DISTINCT coalesce(tenant_id, '') FROM call_sids;
