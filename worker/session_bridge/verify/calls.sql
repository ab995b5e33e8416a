-- name: how_many_calls
-- Whether there are more calls than this, and about how many: the statistics', or a guess by the tables' size.
SELECT (SELECT count(*) FROM (SELECT FROM call_sessions LIMIT %(limit)s + 1) AS counted),
    (SELECT sum(greatest(reltuples, pg_relation_size(oid) / 2000.0)) FROM pg_class
     JOIN pg_inherits ON inhrelid = oid WHERE inhparent = 'call_sessions'::regclass);

-- name: next_calls
-- The next calls, in their order.
SELECT id FROM call_sessions WHERE id > %(after)s ORDER BY id LIMIT %(limit)s;

-- name: some_calls
-- Some calls, from everywhere.
SELECT id FROM (
    SELECT id FROM call_sessions TABLESAMPLE SYSTEM (%(percent)s) ORDER BY random() LIMIT %(limit)s) AS picked
ORDER BY id;

-- name: stored_and_recomputed
-- What is stored of these calls, and the same made again of their rows. Values beyond 1e100 cannot be averaged here: a
-- call that has any is `vast`, and its averages are not compared.
WITH asked AS (
    SELECT unnest(%(ids)s::uuid[]) AS id
), said AS (
    SELECT session_id, count(*) AS messages, count(*) FILTER (WHERE role = 'user') AS by_user,
        count(*) FILTER (WHERE role = 'assistant') AS by_assistant,
        count(*) FILTER (WHERE role IN ('user', 'assistant') AND role IS DISTINCT FROM before) AS turns,
        string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids,
        string_agg(role || E'\x1f' || content, E'\x1e' ORDER BY sequence) AS words,
        string_agg(coalesce(nullif(speaker, ''), role) || ': ' || content, E'\n' ORDER BY sequence) AS transcript
    FROM (
        SELECT *, lag(role) OVER (
            PARTITION BY session_id, role IN ('user', 'assistant') ORDER BY sequence) AS before
        FROM call_messages WHERE session_id = ANY(%(ids)s)
    ) AS message
    GROUP BY session_id
), moved AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_transitions WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), measured AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids,
        bool_or(given <> value OR given IS NULL) AS vast,
        avg(value) FILTER (WHERE metric_type = 'stt_delay') AS stt_delay,
        avg(value) FILTER (WHERE metric_type = 'llm_ttfb') AS llm_ttfb,
        avg(value) FILTER (WHERE metric_type = 'llm_processing_time') AS llm_processing,
        avg(value) FILTER (WHERE metric_type = 'tts_ttfb') AS tts_ttfb,
        avg(value) FILTER (WHERE metric_type = 'user_to_bot_latency') AS latency,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY value)
            FILTER (WHERE metric_type = 'user_to_bot_latency') AS p95_latency,
        max(value) FILTER (WHERE metric_type = 'user_to_bot_latency') AS max_latency,
        avg(value) FILTER (WHERE metric_type = 'rag_processing_time') AS rag_processing,
        avg(value) FILTER (WHERE metric_type = 'variable_extraction_time') AS extraction,
        sum(value) FILTER (WHERE metric_type = 'llm_prompt_tokens') AS prompt_tokens,
        sum(value) FILTER (WHERE metric_type = 'llm_completion_tokens') AS completion_tokens,
        sum(value) FILTER (WHERE metric_type = 'tts_characters') AS tts_characters
    FROM (
        SELECT session_id, event_id, sequence, metric_type, value AS given,
            CASE WHEN abs(value) <= 1e100 THEN value ELSE 0 END AS value
        FROM call_metrics WHERE session_id = ANY(%(ids)s)
    ) AS metric
    GROUP BY session_id
), counted AS (
    SELECT session_id, vast,
        CASE WHEN abs(prompt_tokens) < 2.0 ^ 62 THEN round(prompt_tokens)::bigint END AS prompt_tokens,
        CASE WHEN abs(completion_tokens) < 2.0 ^ 62 THEN round(completion_tokens)::bigint END AS completion_tokens,
        CASE WHEN abs(tts_characters) < 2.0 ^ 62 THEN round(tts_characters)::bigint END AS tts_characters
    FROM measured
), retrieved AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY query_sequence) AS ids,
        bool_or(abs(processing_time_ms) > 1e100) AS vast,
        avg(processing_time_ms) FILTER (WHERE abs(processing_time_ms) <= 1e100) AS processing
    FROM call_rag_retrievals WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), extracted AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids,
        bool_or(abs(processing_time_ms) > 1e100) AS vast,
        avg(processing_time_ms) FILTER (WHERE abs(processing_time_ms) <= 1e100) AS processing
    FROM call_extracted_variables WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), interrupted AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_user_interruptions WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), tooled AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_tool_calls WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), joined AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_participants WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), charged AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_cost_events WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), recorded AS (
    SELECT session_id, count(*) AS n, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids
    FROM call_recordings WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), chunked AS (
    SELECT session_id, count(*) AS n FROM call_rag_chunks WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), others AS (
    SELECT session_id, count(*) AS n FROM call_events WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), analysed AS (
    SELECT session_id, count(*) AS n FROM call_analysis WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), cost AS (
    SELECT session_id, count(*) AS n, CASE
        WHEN count(*) FILTER (WHERE by_service <> '{}') = 1
        THEN max(total_cost_cents) FILTER (WHERE by_service <> '{}')
        ELSE max(total_cost_cents) FILTER (WHERE by_service <> '{}' AND currency = 'USD')
    END AS cents
    FROM call_cost_breakdowns WHERE session_id = ANY(%(ids)s) GROUP BY session_id
), transcribed AS (
    SELECT session_id, transcript_text, jsonb_array_length(transcript_data) AS items
    FROM call_transcripts WHERE session_id = ANY(%(ids)s)
)
SELECT call.call_sid,
    coalesce(counted.vast, false) OR coalesce(retrieved.vast, false) OR coalesce(extracted.vast, false) AS vast,
    call.completeness = 'partial' AS partial,
    to_jsonb(call.*)::text AS stored,
    jsonb_build_object(
        'duration_seconds', CASE WHEN call.ended_at >= call.started_at
            THEN extract(epoch FROM call.ended_at - call.started_at)::double precision END,
        'total_turns', coalesce(said.turns, 0), 'total_messages', coalesce(said.messages, 0),
        'total_user_messages', coalesce(said.by_user, 0), 'total_assistant_messages', coalesce(said.by_assistant, 0),
        'total_transitions', coalesce(moved.n, 0), 'total_interruptions', coalesce(interrupted.n, 0),
        'total_rag_retrievals', coalesce(retrieved.n, 0), 'total_rag_chunks', coalesce(chunked.n, 0),
        'total_extractions', coalesce(extracted.n, 0), 'total_tool_calls', coalesce(tooled.n, 0),
        'avg_stt_delay_ms', measured.stt_delay, 'avg_llm_ttfb_ms', measured.llm_ttfb,
        'avg_llm_processing_ms', measured.llm_processing, 'avg_tts_ttfb_ms', measured.tts_ttfb,
        'avg_user_to_bot_latency_ms', measured.latency, 'p95_user_to_bot_latency_ms', measured.p95_latency,
        'max_user_to_bot_latency_ms', measured.max_latency,
        'avg_rag_processing_ms', coalesce(retrieved.processing, measured.rag_processing),
        'avg_extraction_ms', coalesce(extracted.processing, measured.extraction),
        'total_prompt_tokens', counted.prompt_tokens, 'total_completion_tokens', counted.completion_tokens,
        'total_llm_tokens', CASE WHEN num_nonnulls(counted.prompt_tokens, counted.completion_tokens) > 0
            THEN coalesce(counted.prompt_tokens, 0) + coalesce(counted.completion_tokens, 0) END,
        'total_tts_characters', counted.tts_characters, 'total_cost_cents', cost.cents
    )::text AS summary,
    call.row_counts = jsonb_strip_nulls(jsonb_build_object(
        'call_transcripts', CASE WHEN transcribed.session_id IS NOT NULL THEN 1 END, 'call_messages', said.messages,
        'call_transitions', moved.n, 'call_metrics', measured.n, 'call_rag_retrievals', retrieved.n,
        'call_extracted_variables', extracted.n, 'call_user_interruptions', interrupted.n, 'call_tool_calls', tooled.n,
        'call_participants', joined.n, 'call_cost_events', charged.n, 'call_recordings', recorded.n,
        'call_rag_chunks', chunked.n, 'call_events', others.n, 'call_cost_breakdowns', cost.n,
        'call_analysis', analysed.n)) AS counts_hold,
    call.content_digest = encode(sha256(convert_to(concat(
        concat_ws(E'\x1e', 'message', said.ids, said.words), concat_ws(E'\x1e', 'transition', moved.ids),
        concat_ws(E'\x1e', 'metric', measured.ids), concat_ws(E'\x1e', 'rag', retrieved.ids),
        concat_ws(E'\x1e', 'extraction', extracted.ids), concat_ws(E'\x1e', 'interruption', interrupted.ids),
        concat_ws(E'\x1e', 'tool', tooled.ids), concat_ws(E'\x1e', 'participant', joined.ids),
        concat_ws(E'\x1e', 'cost', charged.ids), concat_ws(E'\x1e', 'recording', recorded.ids)
    ), 'UTF8')), 'hex') AS digest_holds,
    coalesce(transcribed.transcript_text, '') = coalesce(said.transcript, '')
        AND coalesce(transcribed.items, 0) = coalesce(said.messages, 0) AS transcript_holds,
    book.session_id IS NOT DISTINCT FROM call.id AND book.drains = call.drains
        AND book.tenant_id IS NOT DISTINCT FROM call.tenant_id AS book_holds
FROM asked
JOIN call_sessions AS call USING (id)
LEFT JOIN call_sids AS book ON book.call_sid = call.call_sid AND book.generation = call.generation
LEFT JOIN said ON said.session_id = id LEFT JOIN moved ON moved.session_id = id
LEFT JOIN measured ON measured.session_id = id LEFT JOIN counted ON counted.session_id = id
LEFT JOIN retrieved ON retrieved.session_id = id LEFT JOIN extracted ON extracted.session_id = id
LEFT JOIN interrupted ON interrupted.session_id = id LEFT JOIN tooled ON tooled.session_id = id
LEFT JOIN joined ON joined.session_id = id LEFT JOIN charged ON charged.session_id = id
LEFT JOIN recorded ON recorded.session_id = id LEFT JOIN chunked ON chunked.session_id = id
LEFT JOIN others ON others.session_id = id LEFT JOIN analysed ON analysed.session_id = id
LEFT JOIN cost ON cost.session_id = id LEFT JOIN transcribed ON transcribed.session_id = id;

-- name: broken_sequences
-- Events of these calls that are not numbered 1, 2, 3 …
SELECT DISTINCT call_sid FROM (
    SELECT session_id, 'message' AS family, sequence FROM call_messages WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'transition', sequence FROM call_transitions WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'metric', sequence FROM call_metrics WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'rag', query_sequence FROM call_rag_retrievals WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'chunk:' || event_id, chunk_rank FROM call_rag_chunks WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'extraction', sequence FROM call_extracted_variables WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'interruption', sequence FROM call_user_interruptions WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'tool', sequence FROM call_tool_calls WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'participant', sequence FROM call_participants WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'cost', sequence FROM call_cost_events WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'recording', sequence FROM call_recordings WHERE session_id = ANY(%(ids)s)
    UNION ALL SELECT session_id, 'event:' || family, sequence FROM call_events WHERE session_id = ANY(%(ids)s)
) AS numbered
JOIN call_sessions AS call ON call.id = session_id
WHERE call.id = ANY(%(ids)s)
GROUP BY call_sid, session_id, family
HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(DISTINCT sequence) <> count(*);

-- name: chunks_without_text
-- Retrieved chunks of these calls whose text is not kept.
SELECT DISTINCT call.call_sid FROM call_rag_chunks AS chunk JOIN call_sessions AS call ON call.id = chunk.session_id
WHERE chunk.session_id = ANY(%(ids)s) AND call.id = ANY(%(ids)s) AND chunk.content_hash IS NOT NULL AND NOT EXISTS (
    SELECT FROM rag_chunk_contents AS kept
    WHERE kept.month = session_month(chunk.session_id) AND kept.tenant_id = coalesce(chunk.tenant_id, '')
        AND kept.content_hash = chunk.content_hash);

-- name: untrue_sums
-- What these calls cost: the services of each currency against its total, and against what was reported.
SELECT DISTINCT call.call_sid
FROM call_cost_breakdowns AS cost
JOIN call_sessions AS call ON call.id = cost.session_id
LEFT JOIN LATERAL (
    SELECT sum(value::numeric) AS cents FROM jsonb_each_text(cost.by_service)
) AS services ON true
LEFT JOIN LATERAL (
    SELECT sum(coalesce(amount_cents, usage * unit_price_cents)) AS cents FROM call_cost_events AS event
    WHERE event.session_id = cost.session_id AND event.currency = cost.currency
) AS reported ON true
WHERE cost.session_id = ANY(%(ids)s) AND call.id = ANY(%(ids)s) AND (
    abs(coalesce(services.cents, 0) - cost.total_cost_cents) > 0.000001
    OR abs(coalesce(reported.cents, 0) - cost.reported_cents) > 0.000001 * greatest(1, abs(cost.reported_cents)));

-- name: orphans_between
-- Rows of one table that lie between two calls that follow each other, and so belong to none.
SELECT count(*), min(orphan.session_id::text)
FROM unnest(%(ids)s::uuid[], %(before)s::uuid[]) AS gap (id, before)
CROSS JOIN LATERAL (
    SELECT child.session_id FROM {table} AS child
    WHERE child.session_id > gap.before AND child.session_id < gap.id LIMIT 1
) AS orphan;

-- name: calls_before
-- The call before each of these.
SELECT coalesce((
    SELECT call.id FROM call_sessions AS call WHERE call.id < asked.id ORDER BY call.id DESC LIMIT 1),
    '00000000-0000-0000-0000-000000000000')
FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS asked (id, place) ORDER BY place;

-- name: orphans_after
-- Rows of one table after the last call.
SELECT count(*), min(session_id::text) FROM (
    SELECT session_id FROM {table}
    WHERE session_id > coalesce(
        (SELECT id FROM call_sessions ORDER BY id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')
    ORDER BY session_id LIMIT 1) AS orphan;

-- name: strangers_in
-- Rows of one table under another tenant than their call's.
SELECT count(*), min(call.call_sid) FROM {table} AS child JOIN call_sessions AS call ON call.id = child.session_id
WHERE child.session_id = ANY(%(ids)s) AND call.id = ANY(%(ids)s) AND child.tenant_id IS DISTINCT FROM call.tenant_id;

-- name: children
-- The tables whose rows belong to a call, and whether they name its tenant. The journal is of the book's entries: it
-- tells of calls, too, that were never archived.
SELECT relname::text, EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'tenant_id' AND NOT attisdropped)
FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND (
    relname = 'call_session_rejects' OR relname IN (
        SELECT table_name FROM session_bridge_partitioned_tables
        WHERE key_column = 'session_id' AND table_name <> 'call_journal'))
ORDER BY relname;
