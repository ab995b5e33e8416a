-- name: look_up
-- Every record under these names, which are call SIDs and their tombstones; the latest of each first.
SELECT
    call_sid, generation, session_id, tenant_id, state, drains, started_at, ended_at, first_seen_at, last_seen_at
FROM {schema}.call_sids WHERE call_sid = ANY(%(names)s)
ORDER BY call_sid, generation DESC;

-- name: enter_drained
-- Enter call SIDs that the book does not know, as drained; those entered by somebody else meanwhile are left out. One
-- text instead of an array a column: it is sooner made.
INSERT INTO call_sids (
    call_sid, generation, session_id, tenant_id, state, status, drains, started_at, ended_at, last_activity_at,
    first_seen_at, last_seen_at, last_change_at, checkpointed_at, archived_at)
SELECT
    call_sid, generation, session_id, tenant_id, state, status, 1, started_at, ended_at, last_activity_at,
    at, at, at, CASE state WHEN 'checkpointed' THEN at END, CASE state WHEN 'checkpointed' THEN NULL ELSE at END
FROM json_to_recordset(%(calls)s::json) AS entered (
    call_sid text, generation int, session_id uuid, tenant_id text, state text, status text, started_at timestamptz,
    ended_at timestamptz, last_activity_at timestamptz, at timestamptz)
ORDER BY call_sid, generation
ON CONFLICT (call_sid, generation) DO NOTHING
RETURNING call_sid;

-- name: retired_meanwhile
-- The tombstones there are of call SIDs entered as new in this transaction. It must be asked by a statement of its own:
-- an erasure waits for the entry, or was committed before it.
SELECT call_sid, ended_at FROM call_sids WHERE call_sid = ANY(%(tombstones)s);

-- name: take_back
-- These calls were entered a moment ago, in this transaction, and are retired: they are not entered after all.
DELETE FROM call_sids WHERE (call_sid, generation) IN (
    SELECT * FROM unnest(%(call_sid)s::text[], %(generation)s::int[]));

-- name: lock
-- Lock the book's rows of these calls, in one order everywhere, so that two workers never wait for each other.
SELECT FROM call_sids
WHERE (call_sid, generation) IN (SELECT * FROM unnest(%(call_sid)s::text[], %(generation)s::int[]))
ORDER BY call_sid, generation
FOR UPDATE;

-- name: advance
-- Count one more drain of these calls, where none has been committed since they were looked up.
UPDATE call_sids AS book SET
    drains = book.drains + 1,
    tenant_id = coalesce(book.tenant_id, drained.tenant_id),
    state = drained.state,
    status = drained.status,
    started_at = coalesce(drained.started_at, book.started_at),
    ended_at = drained.ended_at,
    last_activity_at = drained.last_activity_at,
    last_seen_at = greatest(book.last_seen_at, drained.at),
    checkpointed_at = CASE drained.state WHEN 'checkpointed' THEN drained.at ELSE book.checkpointed_at END,
    archived_at = CASE drained.state WHEN 'checkpointed' THEN book.archived_at ELSE drained.at END
FROM unnest(
    %(call_sid)s::text[], %(generation)s::int[], %(drains)s::int[], %(tenant_id)s::text[], %(state)s::text[],
    %(status)s::text[], %(started_at)s::timestamptz[], %(ended_at)s::timestamptz[], %(last_activity_at)s::timestamptz[],
    %(at)s::timestamptz[])
    AS drained (call_sid, generation, drains, tenant_id, state, status, started_at, ended_at, last_activity_at, at)
WHERE book.call_sid = drained.call_sid AND book.generation = drained.generation AND book.drains = drained.drains
    AND book.state <> 'retired'
RETURNING book.call_sid;

-- name: not_released
-- Calls that were archived as ended, but whose requests were taken back before the release: they live on. One that was
-- drained again meanwhile is that drain's to tell of: it may have ended, and be released.
UPDATE call_sids AS book SET state = 'checkpointed', checkpointed_at = archived_at
FROM unnest(%(call_sid)s::text[], %(generation)s::int[], %(drains)s::int[]) AS drained (call_sid, generation, drains)
WHERE book.call_sid = drained.call_sid AND book.generation = drained.generation
    AND book.state = 'archived' AND book.drains = drained.drains
    AND book.generation = (SELECT max(generation) FROM call_sids AS later WHERE later.call_sid = book.call_sid);

-- name: missing_contents
-- Which of these chunk texts of a month and tenant are not kept yet. One text instead of an array: it is quicker made.
SELECT wanted.content_hash
FROM string_to_table(%(hashes)s, ',') AS wanted (content_hash)
WHERE NOT EXISTS (
    SELECT FROM rag_chunk_contents AS kept
    WHERE kept.month = %(month)s AND kept.tenant_id = %(tenant_id)s
        AND kept.content_hash = wanted.content_hash::bytea);

-- name: keep_contents
-- Keep chunk texts, in one order everywhere, for two workers may bring the same ones.
INSERT INTO rag_chunk_contents (month, tenant_id, content_hash, content, language)
SELECT month, tenant_id, content_hash::bytea, content, language
FROM json_to_recordset(%(contents)s::json)
    AS kept (month date, tenant_id text, content_hash text, content text, language text)
ORDER BY month, tenant_id COLLATE "C", content_hash
ON CONFLICT DO NOTHING;

-- name: drop_history
-- The older form of the transcript gives way to message events.
DELETE FROM call_messages WHERE session_id = ANY(%(session_ids)s) AND event_id LIKE 'history:%%';

-- name: drop_chunks
-- Retrieved chunks that a later writing of their retrieval does not name.
DELETE FROM call_rag_chunks WHERE session_id = ANY(%(session_ids)s) AND (session_id, event_id, chunk_rank) IN (
    SELECT * FROM unnest(%(session_id)s::uuid[], %(event_id)s::text[], %(chunk_rank)s::integer[]));

-- name: drop_cost_breakdowns
-- What a call cost in currencies in which, as is known now, it cost nothing.
DELETE FROM call_cost_breakdowns WHERE session_id = ANY(%(session_ids)s) AND (session_id, currency) IN (
    SELECT * FROM unnest(%(session_id)s::uuid[], %(currency)s::text[]));

-- name: keep_rejects
-- Keep what could not be understood; a second drain that meets it again keeps it once.
INSERT INTO call_session_rejects (
    session_id, digest, call_sid, tenant_id, field, reason, error, size_bytes, field_raw, raw)
SELECT * FROM unnest(
    %(session_id)s::uuid[], %(digest)s::bytea[], %(call_sid)s::text[], %(tenant_id)s::text[], %(field)s::text[],
    %(reason)s::text[], %(error)s::text[], %(size_bytes)s::bigint[], %(field_raw)b::bytea[], %(raw)b::bytea[])
ON CONFLICT DO NOTHING;

-- name: archived_rejects
-- What is kept already of what could not be understood, and whether it is archived in a cleaned form.
SELECT session_id::text, digest, field_raw, reason = 'cleaned' AS cleaned
FROM call_session_rejects WHERE session_id = ANY(%(session_ids)s);

-- name: archived_transcripts
-- What a second reading of transcript_history is joined to.
SELECT session_id::text, transcript_history::text FROM call_transcripts
WHERE session_id = ANY(%(session_ids)s) AND transcript_history IS NOT NULL;

-- name: archived_analyses
-- The analyses of these calls.
SELECT session_id::text, data::text FROM call_analysis WHERE session_id = ANY(%(session_ids)s);

-- name: enter_dead
-- A session that could not be archived.
INSERT INTO dead_sessions (call_sid, session_id, tenant_id, reason, error, attempts, fields, size_bytes)
VALUES (%(call_sid)s, %(session_id)s, %(tenant_id)s, %(reason)s, %(error)s, %(attempts)s, %(fields)s, %(size_bytes)s)
RETURNING id;

-- name: keep_dead_fields
-- Its fields, raw.
INSERT INTO dead_session_fields (dead_id, digest, field_raw, raw)
SELECT %(dead_id)s, * FROM unnest(%(digest)s::bytea[], %(field_raw)b::bytea[], %(raw)b::bytea[])
ON CONFLICT DO NOTHING;

-- name: forget_dead_before
-- A worker that dies after a session's burial and before its release leaves it to be buried again: what an earlier
-- burial kept is all in this one.
DELETE FROM dead_sessions AS earlier
WHERE call_sid = %(call_sid)s AND id <> %(dead_id)s AND retried_at IS NULL AND NOT EXISTS (
    SELECT digest, raw FROM dead_session_fields WHERE dead_id = earlier.id
    EXCEPT SELECT digest, raw FROM dead_session_fields WHERE dead_id = %(dead_id)s);

-- name: mark_dead
-- Note in the book that a call is dead. One that was retired since it was looked up is not touched.
UPDATE call_sids SET state = 'dead', last_seen_at = %(at)s
WHERE call_sid = %(call_sid)s AND generation = %(generation)s AND state <> 'retired'
RETURNING call_sid;

-- name: enter_dead_call
-- Enter a dead call that the book does not know.
INSERT INTO call_sids AS book (
    call_sid, generation, session_id, tenant_id, state, first_seen_at, last_seen_at, last_change_at)
VALUES (%(call_sid)s, %(generation)s, %(session_id)s, %(tenant_id)s, 'dead', %(at)s, %(at)s, %(at)s)
ON CONFLICT (call_sid, generation) DO UPDATE SET state = 'dead', last_seen_at = excluded.last_seen_at
WHERE book.state <> 'retired'
RETURNING call_sid;

-- name: list_dead
-- Dead sessions that were not retried, the latest first.
SELECT id, call_sid, tenant_id, reason, error, attempts, fields, size_bytes, died_at, retried_at
FROM dead_sessions
WHERE (%(all)s OR retried_at IS NULL) AND (%(id)s::bigint IS NULL OR id = %(id)s)
ORDER BY id DESC
LIMIT %(limit)s;

-- name: dead_fields
-- The fields of a dead session, piece by piece.
SELECT field_raw, raw FROM dead_session_fields WHERE dead_id = %(id)s ORDER BY field_raw;

-- name: dead_retried
-- A dead session was given back to Redis.
UPDATE dead_sessions SET retried_at = now() WHERE id = %(id)s;

-- name: revive
-- A dead call is live again.
UPDATE call_sids SET state = 'live', last_seen_at = now(), last_change_at = now()
WHERE call_sid = %(call_sid)s AND state = 'dead';

-- name: enter_live
-- Enter live sessions that the sweep or a recorder saw.
INSERT INTO call_sids (
    call_sid, session_id, state, started_at, first_seen_at, last_seen_at, last_change_at, last_activity_at,
    fingerprint)
SELECT call_sid, session_id, 'live', started_at, at, at, changed_at, changed_at, fingerprint
FROM unnest(
    %(call_sid)s::text[], %(session_id)s::uuid[], %(started_at)s::timestamptz[], %(at)s::timestamptz[],
    %(changed_at)s::timestamptz[], %(fingerprint)s::text[])
    AS seen (call_sid, session_id, started_at, at, changed_at, fingerprint)
CROSS JOIN session_bridge_archive AS archive
WHERE NOT EXISTS (SELECT FROM call_sids AS known WHERE known.call_sid = seen.call_sid)
    AND NOT EXISTS (
        SELECT FROM call_sids AS stone
        WHERE stone.call_sid = tombstone_of(archive.archive_id, seen.call_sid)
            AND (seen.started_at IS NULL OR seen.started_at <= stone.ended_at))
ORDER BY call_sid
ON CONFLICT DO NOTHING;

-- name: seen_before
-- What the book knows of live sessions the sweep has met: the latest record of each call SID.
SELECT DISTINCT ON (wanted.sid)
    wanted.sid, book.generation, book.state, book.status, book.first_seen_at, book.last_change_at,
    book.checkpointed_at, book.ended_at, book.fingerprint
FROM session_bridge_archive AS archive
CROSS JOIN unnest(%(call_sids)s::text[]) AS wanted (sid)
JOIN call_sids AS book ON book.call_sid = ANY(ARRAY[wanted.sid, tombstone_of(archive.archive_id, wanted.sid)])
ORDER BY wanted.sid, book.call_sid = wanted.sid DESC, book.generation DESC;

-- name: note_seen
-- Note what the sweep saw. A drain that holds the row knows better, and is not waited for.
WITH seen AS (
    SELECT * FROM unnest(
        %(call_sid)s::text[], %(generation)s::int[], %(at)s::timestamptz[], %(changed_at)s::timestamptz[],
        %(fingerprint)s::text[])
        AS seen (call_sid, generation, at, changed_at, fingerprint)
), free AS (
    SELECT book.call_sid, book.generation FROM call_sids AS book JOIN seen USING (call_sid, generation)
    ORDER BY book.call_sid, book.generation
    FOR UPDATE OF book SKIP LOCKED
)
UPDATE call_sids AS book SET
    last_seen_at = seen.at, last_change_at = seen.changed_at, fingerprint = seen.fingerprint
FROM seen JOIN free USING (call_sid, generation)
WHERE book.call_sid = seen.call_sid AND book.generation = seen.generation;

-- name: not_seen_since
-- Calls believed alive that the sweep's whole round has not met.
SELECT call_sid, generation, session_id, state, last_seen_at FROM call_sids
WHERE state IN ('live', 'checkpointed') AND last_seen_at < %(since)s
ORDER BY last_seen_at
LIMIT %(limit)s;

-- name: book_states
-- How many call SIDs stand where, each by its latest call.
SELECT state, count(*) FROM call_sids AS book
WHERE NOT EXISTS (
    SELECT FROM call_sids AS later WHERE later.call_sid = book.call_sid AND later.generation > book.generation)
GROUP BY state;

-- name: archive_identity
-- Who this archive is.
SELECT archive_id::text FROM session_bridge_archive;

-- name: archived_call
-- One archived call, by its SID.
SELECT to_jsonb(call.*) FROM call_sessions AS call WHERE id = session_id_of(%(call_sid)s);

-- name: archived_messages
-- The messages of one call, in order.
SELECT sequence, role, coalesce(speaker, role), content, timestamp, start_ms, end_ms FROM call_messages
WHERE session_id = %(session_id)s ORDER BY sequence;

-- name: enter_journal
-- One thing that happened to a call.
INSERT INTO call_journal (session_id, at, event, detail)
VALUES (%(session_id)s, %(at)s, %(event)s, %(detail)s::jsonb)
ON CONFLICT DO NOTHING
RETURNING event;

-- name: journal
-- All that happened to the calls of one SID.
SELECT book.generation, entry.at, entry.event, entry.detail
FROM call_sids AS book JOIN call_journal AS entry USING (session_id)
WHERE book.call_sid = %(call_sid)s
ORDER BY book.generation, entry.at;

-- name: book_entry
-- What the book says of one call SID, every call it ever named.
SELECT to_jsonb(book.*) FROM call_sids AS book WHERE call_sid = %(call_sid)s ORDER BY generation;

-- name: call_moments
-- The moments of one call that an explanation begins with.
SELECT started_at, answered_at, ended_at, last_activity_at,
    (SELECT min(timestamp) FROM call_messages WHERE session_id = %(session_id)s),
    (SELECT max(timestamp) FROM call_messages WHERE session_id = %(session_id)s),
    (SELECT count(*) FROM call_session_rejects WHERE session_id = %(session_id)s)
FROM call_sessions WHERE id = %(session_id)s;

-- name: dead_of
-- The dead sessions of one call SID.
SELECT id, died_at, reason, error, attempts, retried_at FROM dead_sessions WHERE call_sid = %(call_sid)s ORDER BY id;

-- name: unsettled
-- Calls that the book believes alive, page by page.
SELECT DISTINCT call_sid FROM call_sids
WHERE state IN ('live', 'checkpointed') AND call_sid > %(after)s
ORDER BY call_sid
LIMIT %(limit)s;
