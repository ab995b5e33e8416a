-- Who asks for each secondary index: the query that ships, or that the README has, with any values in it. An index that
-- is not here, or that its query would not use, is paid for with every call and serves nobody. Unique ones need no
-- entry: to refuse a second row is their use.

-- name: asks_call_sids_alive
-- The sweep: not_seen_since.
SELECT call_sid FROM call_sids WHERE state IN ('live', 'checkpointed') AND last_seen_at < now()
ORDER BY last_seen_at LIMIT 100;

-- name: asks_call_sids_by_session
-- Retention and erasure: the entries of a session.
SELECT call_sid FROM call_sids
WHERE session_id = '01890000-0000-7000-8000-000000000000' AND call_sid NOT LIKE 'retired:%';

-- name: asks_call_sessions_call_sid
-- The views, by a SID.
SELECT * FROM call_analytics WHERE call_sid = 'CA1';

-- name: asks_call_sessions_started_at
-- The views, by days of the exact start.
SELECT * FROM call_analytics WHERE started_at >= now() - interval '1 day' AND started_at < now();

-- name: asks_call_sessions_archived_at
-- The embedding of what was archived lately: archived_since; and `session-bridge verify` itself.
SELECT id, archived_at FROM call_sessions
WHERE (archived_at, id) > (now(), '01890000-0000-7000-8000-000000000000'::uuid) ORDER BY archived_at, id LIMIT 50;

-- name: asks_call_sessions_user_id
-- get_conversation_stats() and user_spend().
SELECT * FROM call_sessions WHERE user_id = 'u' AND id >= session_id_floor(now());

-- name: asks_call_transcripts_words
-- search_calls() and search_messages().
SELECT session_id FROM call_transcripts WHERE search_words(language, transcript_text) @@ 'word'::tsquery;

-- name: asks_rag_chunk_contents_words
-- search_chunks().
SELECT content_hash FROM rag_chunk_contents WHERE search_words(language, content) @@ 'word'::tsquery;

-- name: asks_call_rag_chunks_content
-- search_chunks(), for the latest calls that retrieved a text.
SELECT session_id FROM call_rag_chunks WHERE content_hash = E'\\x00' ORDER BY session_id DESC LIMIT 3;

-- name: asks_dead_sessions_call_sid
-- `session-bridge explain`, and a burial: dead_of, forget_dead_before.
SELECT id FROM dead_sessions WHERE call_sid = 'CA1';

-- name: asks_user_budget_settings_updated_at
-- What workers tell recorders: changed_budgets.
SELECT user_id FROM user_budget_settings WHERE updated_at >= now();

-- name: asks_credit_transactions_session_id
-- The settling of a call.
SELECT id FROM credit_transactions WHERE session_id = '01890000-0000-7000-8000-000000000000' ORDER BY id;

-- name: asks_credit_transactions_user_id
-- `session-bridge credits`: an account's entries, the latest first.
SELECT id FROM credit_transactions WHERE tenant_id = '' AND user_id = 'u' AND currency = 'USD'
ORDER BY id DESC LIMIT 20;

-- name: asks_call_participants_user
-- Row level security by participant: the calls that a reader took part in.
SELECT session_id FROM call_participants WHERE left(coalesce(user_id, identity), 255) = 'u';
