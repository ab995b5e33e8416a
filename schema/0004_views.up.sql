-- What people ask of the archive again and again: views, numbers kept ready, and functions for those who load calls.
--
-- A view that is asked about one call reaches that call's partitions alone; one that is asked about days reads those
-- days alone, by the time in the session's id.

-- A user's last calls, get_conversation_stats(), and what a user has spent. A user id has at most 255 characters, for a
-- btree refuses a long text, and with it the call.
CREATE INDEX call_sessions_user_id ON call_sessions (user_id, id) WHERE user_id IS NOT NULL;

-- Every day, in UTC, from the first call to the last.
CREATE FUNCTION archived_days() RETURNS SETOF date
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT generate_series(
        date_trunc('day', session_time((SELECT id FROM call_sessions ORDER BY id LIMIT 1)) AT TIME ZONE 'UTC'),
        session_time((SELECT id FROM call_sessions ORDER BY id DESC LIMIT 1)) AT TIME ZONE 'UTC',
        '1 day'
    )::date
    $$;

-- Calls that go on now, as far as the archive knows: a call that was not written down yet has its book entry alone.
CREATE VIEW active_calls_summary WITH (security_invoker) AS
SELECT book.call_sid, book.generation, book.session_id, coalesce(call.tenant_id, book.tenant_id) AS tenant_id,
    book.state, call.status, call.provider, call.channel, call.direction, call.from_number, call.to_number,
    call.agent_id, call.agent_name, call.user_id, call.language, call.conversation_stage,
    coalesce(call.started_at, book.started_at) AS started_at,
    extract(epoch FROM now() - coalesce(call.started_at, book.started_at))::double precision AS running_seconds,
    greatest(call.last_activity_at, book.last_activity_at) AS last_activity_at, book.first_seen_at, book.last_seen_at,
    book.checkpointed_at, call.total_messages, call.total_turns, call.total_cost_cents
FROM call_sids AS book
LEFT JOIN call_sessions AS call ON call.id = book.session_id
WHERE book.state IN ('live', 'checkpointed');

-- A call in one row: who, what came of it, how it went, and what was said about it.
CREATE VIEW call_analytics WITH (security_invoker) AS
SELECT call.id AS session_id, call.call_sid, call.tenant_id, call.provider, call.channel, call.direction,
    call.agent_id, call.agent_name, call.agent_version, call.persona_id, call.user_id, call.language, call.status,
    call.outcome, call.end_reason, call.conversation_stage, call.initial_node, call.final_node, call.handoff_status,
    call.payment_status, call.started_at, call.ended_at,
    (coalesce(call.started_at, session_time(call.id)) AT TIME ZONE 'UTC')::date AS day,
    extract(hour FROM coalesce(call.started_at, session_time(call.id)) AT TIME ZONE 'UTC')::integer AS hour,
    extract(epoch FROM call.answered_at - call.started_at)::double precision AS ring_seconds,
    call.duration_seconds, call.total_turns, call.total_messages, call.total_user_messages,
    call.total_assistant_messages, call.total_transitions, call.total_interruptions, call.total_rag_retrievals,
    call.total_extractions, call.total_tool_calls, call.avg_stt_delay_ms, call.avg_llm_ttfb_ms,
    call.avg_llm_processing_ms, call.avg_tts_ttfb_ms, call.avg_user_to_bot_latency_ms,
    call.p95_user_to_bot_latency_ms, call.max_user_to_bot_latency_ms, call.avg_rag_processing_ms,
    call.total_llm_tokens, call.total_tts_characters, call.total_cost_cents,
    call.total_cost_cents * 60 / nullif(call.duration_seconds, 0)::numeric AS cost_cents_per_minute,
    call.total_interruptions::double precision / nullif(call.total_turns, 0) AS interruptions_per_turn,
    analysis.sentiment, analysis.sentiment_score, analysis.topics, analysis.keywords, analysis.success,
    coalesce(call.summary, analysis.summary) AS summary, call.completeness, call.archived_at
FROM call_sessions AS call
LEFT JOIN call_analysis AS analysis ON analysis.session_id = call.id;

-- How each agent did on each day. A condition on `day` decides which days are read.
CREATE VIEW agent_performance WITH (security_invoker) AS
SELECT day.day, worked.*
FROM archived_days() AS day (day)
CROSS JOIN LATERAL (
    SELECT call.tenant_id, call.agent_id, call.agent_name, count(*) AS calls,
        count(*) FILTER (WHERE call.status = 'completed') AS completed_calls,
        count(*) FILTER (WHERE call.status = 'failed') AS failed_calls,
        count(*) FILTER (WHERE call.status = 'abandoned') AS abandoned_calls,
        count(*) FILTER (WHERE call.outcome IN ('success', 'data_collected')) AS successful_calls,
        count(*) FILTER (WHERE call.outcome = 'transferred') AS transferred_calls,
        sum(call.duration_seconds) AS talk_seconds, avg(call.duration_seconds) AS avg_duration_seconds,
        avg(call.total_turns)::double precision AS avg_turns, sum(call.total_interruptions) AS interruptions,
        avg(call.avg_user_to_bot_latency_ms) AS avg_latency_ms,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY call.avg_user_to_bot_latency_ms) AS p95_latency_ms,
        sum(call.total_tool_calls) AS tool_calls, sum(call.total_llm_tokens) AS llm_tokens,
        sum(call.total_cost_cents) AS cost_cents
    FROM call_sessions AS call
    WHERE call.id >= session_id_floor(day.day::timestamp AT TIME ZONE 'UTC')
        AND call.id < session_id_floor((day.day + 1)::timestamp AT TIME ZONE 'UTC')
    GROUP BY call.tenant_id, call.agent_id, call.agent_name
) AS worked;

-- The way a call took through its workflow.
CREATE VIEW call_flow WITH (security_invoker) AS
SELECT step.session_id, step.tenant_id, count(*) AS transitions,
    array_remove(array_prepend(
        (array_agg(step.from_node_id ORDER BY step.sequence))[1],
        array_agg(step.to_node_id ORDER BY step.sequence)
    ), NULL) AS nodes,
    concat_ws(' → ',
        (array_agg(coalesce(step.from_node_name, step.from_node_id) ORDER BY step.sequence))[1],
        string_agg(coalesce(step.to_node_name, step.to_node_id), ' → ' ORDER BY step.sequence)
    ) AS path,
    array_agg(coalesce(step.reason, step.condition) ORDER BY step.sequence) AS reasons,
    min(step.timestamp) AS first_at, max(step.timestamp) AS last_at
FROM call_transitions AS step
GROUP BY step.session_id, step.tenant_id;

-- Everything of a call, in the order of time: `WHERE session_id = session_id_of('CA…')`.
CREATE VIEW call_timeline WITH (security_invoker) AS
SELECT id AS session_id, tenant_id, moment.at, 'call' AS kind, NULL::integer AS sequence, moment.what,
    NULL::jsonb AS detail
FROM call_sessions
CROSS JOIN LATERAL (
    VALUES (started_at, 'started'), (answered_at, 'answered'), (ended_at, concat_ws(': ', 'ended', end_reason))
) AS moment (at, what)
WHERE moment.at IS NOT NULL
UNION ALL
SELECT session_id, tenant_id, timestamp, 'message', sequence, coalesce(speaker, role) || ': ' || content,
    jsonb_strip_nulls(jsonb_build_object('node_id', node_id, 'turn_number', turn_number, 'confidence', confidence,
        'start_ms', start_ms, 'end_ms', end_ms, 'was_interrupted', was_interrupted))
FROM call_messages
UNION ALL
SELECT session_id, tenant_id, timestamp, 'transition', sequence,
    concat_ws(' → ', coalesce(from_node_name, from_node_id), coalesce(to_node_name, to_node_id)),
    jsonb_strip_nulls(jsonb_build_object('reason', reason, 'condition', condition, 'turn_number', turn_number))
FROM call_transitions
UNION ALL
SELECT session_id, tenant_id, timestamp, 'metric', sequence, metric_type || ' ' || value,
    jsonb_strip_nulls(jsonb_build_object('value', value, 'unit', unit, 'processor', processor, 'model', model))
FROM call_metrics
UNION ALL
SELECT session_id, tenant_id, timestamp, 'retrieval', query_sequence, query_text,
    jsonb_strip_nulls(jsonb_build_object('search_mode', search_mode, 'top_k', top_k,
        'processing_time_ms', processing_time_ms))
FROM call_rag_retrievals
UNION ALL
SELECT session_id, tenant_id, timestamp, 'extraction', sequence, coalesce(variables_extracted::text, ''),
    jsonb_strip_nulls(jsonb_build_object('requested', variables_requested, 'success', success,
        'confidence', confidence))
FROM call_extracted_variables
UNION ALL
SELECT session_id, tenant_id, timestamp, 'interruption', sequence, 'in turn ' || interrupted_at_turn, NULL
FROM call_user_interruptions
UNION ALL
SELECT session_id, tenant_id, timestamp, 'tool', sequence, name,
    jsonb_strip_nulls(jsonb_build_object('arguments', arguments, 'output', output, 'is_error', is_error,
        'duration_ms', duration_ms))
FROM call_tool_calls
UNION ALL
SELECT session_id, tenant_id, moment.at, 'participant', sequence, identity || ' ' || moment.what,
    jsonb_strip_nulls(jsonb_build_object('type', participant_type, 'name', name,
        'disconnect_reason', disconnect_reason))
FROM call_participants
CROSS JOIN LATERAL (
    VALUES (coalesce(joined_at, timestamp), 'joined'), (left_at, 'left')
) AS moment (at, what)
WHERE moment.what = 'joined' OR moment.at IS NOT NULL
UNION ALL
SELECT session_id, tenant_id, timestamp, 'cost', sequence, service,
    jsonb_strip_nulls(jsonb_build_object('amount_cents', amount_cents, 'usage', usage, 'unit', unit,
        'currency', currency))
FROM call_cost_events
UNION ALL
SELECT session_id, tenant_id, timestamp, 'recording', sequence, coalesce(recording_sid, recording_url),
    jsonb_strip_nulls(jsonb_build_object('duration_seconds', duration_seconds, 'status', status, 'track', track))
FROM call_recordings
UNION ALL
SELECT session_id, tenant_id, timestamp, family, sequence, event_id, payload FROM call_events
ORDER BY session_id, at NULLS LAST, kind, sequence;

-- The numbers of each day and tenant, kept ready; a call without a tenant is one of ''.
CREATE MATERIALIZED VIEW conversation_metrics AS
SELECT (session_time(id) AT TIME ZONE 'UTC')::date AS day, coalesce(tenant_id, '') AS tenant_id, count(*) AS calls,
    count(*) FILTER (WHERE status = 'completed') AS completed_calls,
    count(*) FILTER (WHERE status = 'failed') AS failed_calls,
    count(*) FILTER (WHERE status IN ('busy', 'no_answer', 'canceled')) AS unreached_calls,
    count(*) FILTER (WHERE status = 'abandoned') AS abandoned_calls,
    count(*) FILTER (WHERE status = 'lost') AS lost_calls,
    count(*) FILTER (WHERE completeness <> 'complete') AS incomplete_calls,
    count(DISTINCT user_id) AS users, count(DISTINCT agent_id) AS agents,
    sum(duration_seconds) AS talk_seconds, avg(duration_seconds) AS avg_duration_seconds,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_seconds) AS p95_duration_seconds,
    sum(total_turns) AS turns, sum(total_messages) AS messages, sum(total_interruptions) AS interruptions,
    sum(total_tool_calls) AS tool_calls, sum(total_rag_retrievals) AS rag_retrievals,
    avg(avg_user_to_bot_latency_ms) AS avg_latency_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY avg_user_to_bot_latency_ms) AS p95_latency_ms,
    sum(total_llm_tokens) AS llm_tokens, sum(total_tts_characters) AS tts_characters,
    sum(total_cost_cents) AS cost_cents
FROM call_sessions
GROUP BY 1, 2;
CREATE UNIQUE INDEX conversation_metrics_key ON conversation_metrics (day, tenant_id);

-- How quick each agent was in each hour of the last five weeks, kept ready; no tenant and no agent are ''.
CREATE MATERIALIZED VIEW performance_stats AS
SELECT date_trunc('hour', session_time(id), 'UTC') AS hour, coalesce(tenant_id, '') AS tenant_id,
    coalesce(agent_id, '') AS agent_id, count(*) AS calls, count(*) FILTER (WHERE status = 'failed') AS failed_calls,
    avg(avg_stt_delay_ms) AS avg_stt_delay_ms, avg(avg_llm_ttfb_ms) AS avg_llm_ttfb_ms,
    avg(avg_llm_processing_ms) AS avg_llm_processing_ms, avg(avg_tts_ttfb_ms) AS avg_tts_ttfb_ms,
    avg(avg_rag_processing_ms) AS avg_rag_processing_ms, avg(avg_extraction_ms) AS avg_extraction_ms,
    avg(avg_user_to_bot_latency_ms) AS avg_latency_ms,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY avg_user_to_bot_latency_ms) AS p50_latency_ms,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY avg_user_to_bot_latency_ms) AS p95_latency_ms,
    max(max_user_to_bot_latency_ms) AS max_latency_ms, sum(total_interruptions) AS interruptions,
    sum(total_turns) AS turns, sum(total_llm_tokens) AS llm_tokens
FROM call_sessions
WHERE id >= session_id_floor(now() - interval '35 days')
GROUP BY 1, 2, 3;
CREATE UNIQUE INDEX performance_stats_key ON performance_stats (hour, tenant_id, agent_id);

-- When each materialized view was refreshed last: it holds what was committed by then.
CREATE TABLE session_bridge_refreshes (
    view_name    name PRIMARY KEY,
    refreshed_at timestamptz NOT NULL,
    seconds      double precision NOT NULL
);
INSERT INTO session_bridge_refreshes VALUES ('conversation_metrics', now(), 0), ('performance_stats', now(), 0);

-- Refresh the materialized views that are older than this, while others read them; the names of those refreshed. One
-- session at a time: a second one returns at once. The lock is the transaction's, for behind PgBouncer there is no
-- other. One that somebody refreshes by hand is left alone.
CREATE FUNCTION refresh_archive_views(older_than interval DEFAULT '0')
    RETURNS TABLE (view_name name, seconds double precision)
    LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout TO '500ms'
    AS $$
#variable_conflict use_column
DECLARE
    stale name;
    began timestamptz;
    took double precision;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('session-bridge refresh ' || current_schema(), 0)) THEN
        RETURN;
    END IF;
    FOR stale IN
        SELECT refresh.view_name FROM session_bridge_refreshes AS refresh
        WHERE refresh.refreshed_at <= clock_timestamp() - older_than ORDER BY refresh.refreshed_at
    LOOP
        began := clock_timestamp();
        BEGIN
            EXECUTE format('REFRESH MATERIALIZED VIEW CONCURRENTLY %I', stale);
        EXCEPTION WHEN lock_not_available THEN
            CONTINUE;
        END;
        took := extract(epoch FROM clock_timestamp() - began);
        UPDATE session_bridge_refreshes AS refresh SET refreshed_at = began, seconds = took
        WHERE refresh.view_name = stale;
        view_name := stale;
        seconds := took;
        RETURN NEXT;
    END LOOP;
END $$;

-- A user's calls of the last days, in numbers.
CREATE FUNCTION get_conversation_stats(of_user text, days integer DEFAULT 30)
    RETURNS TABLE (
        calls bigint, completed_calls bigint, first_call_at timestamptz, last_call_at timestamptz,
        talk_seconds double precision, avg_duration_seconds double precision, messages bigint, turns bigint,
        interruptions bigint, tool_calls bigint, avg_latency_ms double precision, llm_tokens numeric,
        cost_cents numeric, outcomes jsonb
    )
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    WITH mine AS MATERIALIZED (
        SELECT * FROM call_sessions
        WHERE user_id = of_user AND id >= session_id_floor(now() - make_interval(days => days))
    )
    SELECT count(*), count(*) FILTER (WHERE status = 'completed'),
        min(coalesce(started_at, session_time(id))), max(coalesce(started_at, session_time(id))),
        sum(duration_seconds), avg(duration_seconds), sum(total_messages), sum(total_turns),
        sum(total_interruptions), sum(total_tool_calls), avg(avg_user_to_bot_latency_ms), sum(total_llm_tokens),
        sum(total_cost_cents),
        (SELECT coalesce(jsonb_object_agg(word, n), '{}') FROM (
            SELECT coalesce(outcome, 'none') AS word, count(*) AS n FROM mine GROUP BY 1) AS counted)
    FROM mine
    $$;

-- -- for those who load calls ----------------------------------------------------------------------------------------

-- The summary columns of a call, its counts and its digest, from its rows: what a drain computes, computed here.
CREATE FUNCTION summarize_call(summarized uuid) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
BEGIN
    UPDATE call_sessions AS call SET
        duration_seconds = CASE WHEN ended_at >= started_at THEN extract(epoch FROM ended_at - started_at) END,
        total_turns = said.turns, total_messages = said.messages, total_user_messages = said.by_user,
        total_assistant_messages = said.by_assistant,
        total_transitions = (SELECT count(*) FROM call_transitions WHERE session_id = summarized),
        total_interruptions = (SELECT count(*) FROM call_user_interruptions WHERE session_id = summarized),
        total_rag_retrievals = retrieved.retrievals,
        total_rag_chunks = (SELECT count(*) FROM call_rag_chunks WHERE session_id = summarized),
        total_extractions = extracted.extractions,
        total_tool_calls = (SELECT count(*) FROM call_tool_calls WHERE session_id = summarized),
        avg_stt_delay_ms = measured.stt_delay, avg_llm_ttfb_ms = measured.llm_ttfb,
        avg_llm_processing_ms = measured.llm_processing, avg_tts_ttfb_ms = measured.tts_ttfb,
        avg_user_to_bot_latency_ms = measured.latency, p95_user_to_bot_latency_ms = measured.p95_latency,
        max_user_to_bot_latency_ms = measured.max_latency,
        avg_rag_processing_ms = coalesce(retrieved.processing, measured.rag_processing),
        avg_extraction_ms = coalesce(extracted.processing, measured.extraction),
        total_prompt_tokens = measured.prompt_tokens, total_completion_tokens = measured.completion_tokens,
        total_llm_tokens = CASE WHEN num_nonnulls(measured.prompt_tokens, measured.completion_tokens) > 0
            THEN coalesce(measured.prompt_tokens, 0) + coalesce(measured.completion_tokens, 0) END,
        total_tts_characters = measured.tts_characters,
        total_cost_cents = (
            SELECT total_cost_cents FROM (
                SELECT currency, total_cost_cents, count(*) OVER () AS currencies
                FROM call_cost_breakdowns WHERE session_id = summarized) AS sums
            WHERE currency = 'USD' OR currencies = 1),
        content_digest = encode(sha256(convert_to((
            SELECT string_agg(concat_ws(E'\x1e', family.name, event.ids, event.said), '' ORDER BY family.place)
            FROM unnest(ARRAY['message', 'transition', 'metric', 'rag', 'extraction', 'interruption', 'tool',
                'participant', 'cost', 'recording']) WITH ORDINALITY AS family (name, place)
            LEFT JOIN (
                SELECT 'message' AS name, string_agg(event_id, E'\x1e' ORDER BY sequence) AS ids,
                    string_agg(role || E'\x1f' || content, E'\x1e' ORDER BY sequence) AS said
                FROM call_messages WHERE session_id = summarized
                UNION ALL SELECT 'transition', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_transitions WHERE session_id = summarized
                UNION ALL SELECT 'metric', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_metrics WHERE session_id = summarized
                UNION ALL SELECT 'rag', string_agg(event_id, E'\x1e' ORDER BY query_sequence), NULL
                FROM call_rag_retrievals WHERE session_id = summarized
                UNION ALL SELECT 'extraction', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_extracted_variables WHERE session_id = summarized
                UNION ALL SELECT 'interruption', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_user_interruptions WHERE session_id = summarized
                UNION ALL SELECT 'tool', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_tool_calls WHERE session_id = summarized
                UNION ALL SELECT 'participant', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_participants WHERE session_id = summarized
                UNION ALL SELECT 'cost', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_cost_events WHERE session_id = summarized
                UNION ALL SELECT 'recording', string_agg(event_id, E'\x1e' ORDER BY sequence), NULL
                FROM call_recordings WHERE session_id = summarized
            ) AS event USING (name)), 'UTF8')), 'hex'),
        row_counts = (
            SELECT coalesce(jsonb_object_agg(name, n), '{}') FROM (
                SELECT 'call_transcripts' AS name, count(*) AS n FROM call_transcripts WHERE session_id = summarized
                UNION ALL SELECT 'call_messages', said.messages
                UNION ALL SELECT 'call_transitions', count(*) FROM call_transitions WHERE session_id = summarized
                UNION ALL SELECT 'call_metrics', count(*) FROM call_metrics WHERE session_id = summarized
                UNION ALL SELECT 'call_rag_retrievals', retrieved.retrievals
                UNION ALL SELECT 'call_extracted_variables', extracted.extractions
                UNION ALL SELECT 'call_user_interruptions', count(*)
                FROM call_user_interruptions WHERE session_id = summarized
                UNION ALL SELECT 'call_tool_calls', count(*) FROM call_tool_calls WHERE session_id = summarized
                UNION ALL SELECT 'call_participants', count(*) FROM call_participants WHERE session_id = summarized
                UNION ALL SELECT 'call_cost_events', count(*) FROM call_cost_events WHERE session_id = summarized
                UNION ALL SELECT 'call_recordings', count(*) FROM call_recordings WHERE session_id = summarized
                UNION ALL SELECT 'call_rag_chunks', count(*) FROM call_rag_chunks WHERE session_id = summarized
                UNION ALL SELECT 'call_events', count(*) FROM call_events WHERE session_id = summarized
                UNION ALL SELECT 'call_cost_breakdowns', count(*)
                FROM call_cost_breakdowns WHERE session_id = summarized
                UNION ALL SELECT 'call_analysis', count(*) FROM call_analysis WHERE session_id = summarized
            ) AS counted WHERE n > 0)
    FROM (
        SELECT count(*) AS messages, count(*) FILTER (WHERE role = 'user') AS by_user,
            count(*) FILTER (WHERE role = 'assistant') AS by_assistant,
            count(*) FILTER (WHERE role IN ('user', 'assistant') AND role IS DISTINCT FROM before) AS turns
        FROM (
            SELECT role, lag(role) OVER (PARTITION BY role IN ('user', 'assistant') ORDER BY sequence) AS before
            FROM call_messages WHERE session_id = summarized) AS message
    ) AS said, (
        SELECT count(*) AS retrievals, avg(processing_time_ms) AS processing
        FROM call_rag_retrievals WHERE session_id = summarized
    ) AS retrieved, (
        SELECT count(*) AS extractions, avg(processing_time_ms) AS processing
        FROM call_extracted_variables WHERE session_id = summarized
    ) AS extracted, (
        SELECT avg(value) FILTER (WHERE metric_type = 'stt_delay') AS stt_delay,
            avg(value) FILTER (WHERE metric_type = 'llm_ttfb') AS llm_ttfb,
            avg(value) FILTER (WHERE metric_type = 'llm_processing_time') AS llm_processing,
            avg(value) FILTER (WHERE metric_type = 'tts_ttfb') AS tts_ttfb,
            avg(value) FILTER (WHERE metric_type = 'user_to_bot_latency') AS latency,
            percentile_cont(0.95) WITHIN GROUP (ORDER BY value)
                FILTER (WHERE metric_type = 'user_to_bot_latency') AS p95_latency,
            max(value) FILTER (WHERE metric_type = 'user_to_bot_latency') AS max_latency,
            avg(value) FILTER (WHERE metric_type = 'rag_processing_time') AS rag_processing,
            avg(value) FILTER (WHERE metric_type = 'variable_extraction_time') AS extraction,
            round(sum(value) FILTER (WHERE metric_type = 'llm_prompt_tokens'))::bigint AS prompt_tokens,
            round(sum(value) FILTER (WHERE metric_type = 'llm_completion_tokens'))::bigint AS completion_tokens,
            round(sum(value) FILTER (WHERE metric_type = 'tts_characters'))::bigint AS tts_characters
        FROM call_metrics WHERE session_id = summarized
    ) AS measured
    WHERE call.id = summarized;
END $$;

-- Number the events of a call in one of its tables by their time, then by their ids, numbers as numbers; one without a
-- time follows the one before it by id.
CREATE FUNCTION number_events(of_table name, of_call uuid, counter name DEFAULT 'sequence') RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
BEGIN
    EXECUTE format($query$
        WITH placed AS (
            SELECT event_id, timestamp, row_number() OVER (
                ORDER BY event_id ~ '^\d+$' DESC, CASE WHEN event_id ~ '^\d+$' THEN length(ltrim(event_id, '0')) END,
                    CASE WHEN event_id ~ '^\d+$' THEN ltrim(event_id, '0') END COLLATE "C", event_id COLLATE "C"
            ) AS place
            FROM %1$I WHERE session_id = $1
        ), filled AS (
            SELECT event_id, place, timestamp, count(timestamp) OVER (ORDER BY place) AS run FROM placed
        ), stamped AS (
            SELECT event_id, place, first_value(timestamp) OVER (PARTITION BY run ORDER BY place) AS stamp FROM filled
        ), numbered AS (
            SELECT event_id, row_number() OVER (ORDER BY stamp NULLS FIRST, place) AS number FROM stamped
        )
        UPDATE %1$I AS event SET %2$I = numbered.number
        FROM numbered
        WHERE event.session_id = $1 AND event.event_id = numbered.event_id AND event.%2$I <> numbered.number
        $query$, of_table, counter) USING of_call;
END $$;

-- Archive a conversation that comes from elsewhere, or join what is new of it to what is archived; its session id.
--
-- `conversation` has `call_sid`, any column of call_sessions that a call's state may set, `analysis`, and events as arrays:
-- `messages`, `transitions`, `metrics` (in the units they are archived in), `retrievals`, `extractions`, `interruptions`,
-- `tool_calls`, `participants`, `costs`, `recordings`. An event without `event_id` gets its place in the array; the same
-- id again replaces the event. What nobody knows goes to `extra`. A null never takes a value away, and a status that is
-- an end is not taken back; a new call without one is completed. It is a drain as any other: one of the same call that goes on meanwhile reads it again.
CREATE FUNCTION upsert_conversation(conversation jsonb) RETURNS uuid
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
#variable_conflict use_column
DECLARE
    moment timestamptz := now();
    given jsonb := jsonb_strip_nulls(conversation);
    sid text := conversation ->> 'call_sid';
    began timestamptz := conversation ->> 'started_at';
    book call_sids;
    random_part text := replace(gen_random_uuid()::text, '-', '');
    columns text;
    family record;
    known text[];
BEGIN
    IF sid IS NULL OR length(sid) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'a conversation needs a call_sid of 1 to 255 characters' USING ERRCODE = 'not_null_violation';
    END IF;
    IF given - ARRAY['call_sid'] = '{}' THEN
        RAISE EXCEPTION 'there is nothing in this conversation' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- The book: a new call enters, and a known one is locked.
    SELECT * INTO book FROM call_sids WHERE call_sid = sid ORDER BY generation DESC LIMIT 1 FOR UPDATE;
    IF book.state = 'retired' THEN
        RAISE EXCEPTION 'this call was retired: it was erased, or its time here is over'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF book.call_sid IS NULL OR (book.state IN ('archived', 'dead') AND began > book.ended_at) THEN
        INSERT INTO call_sids (
            call_sid, generation, session_id, tenant_id, state, started_at, first_seen_at, last_seen_at, last_change_at)
        VALUES (
            sid, coalesce(book.generation, 0) + 1,
            -- A UUIDv7 of the call's start, if that can be believed.
            (lpad(to_hex((extract(epoch FROM CASE
                WHEN began BETWEEN moment - interval '35 days' AND moment + interval '1 day' THEN began ELSE moment
            END) * 1000)::bigint), 12, '0') || '7' || substr(random_part, 14))::uuid,
            given ->> 'tenant_id', 'archived', began, moment, moment, moment)
        RETURNING * INTO book;
        INSERT INTO call_sessions (
            id, call_sid, generation, tenant_id, status, total_turns, total_messages, total_user_messages,
            total_assistant_messages, total_transitions, total_interruptions, total_rag_retrievals, total_rag_chunks,
            total_extractions, total_tool_calls, finalize_reason, finalized_by, completeness, row_counts,
            content_digest, drains, first_archived_at, archived_at)
        VALUES (
            book.session_id, sid, book.generation, book.tenant_id, 'completed', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            'loaded', 'command', 'reconstructed', '{}', '', 0, moment, moment);
    ELSIF book.drains = 0 THEN
        RAISE EXCEPTION 'this call is still live and not archived yet' USING ERRCODE = 'object_in_use';
    END IF;
    IF given ->> 'tenant_id' IS DISTINCT FROM coalesce(book.tenant_id, given ->> 'tenant_id') AND given ? 'tenant_id' THEN
        RAISE EXCEPTION 'another tenant than the one this call belongs to' USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Its own columns.
    known := ARRAY[
        'provider', 'account_sid', 'parent_call_sid', 'stream_sid', 'room_name', 'tenant_id', 'agent_id', 'agent_name',
        'agent_version', 'persona_id', 'user_id', 'channel', 'direction', 'from_number', 'to_number', 'status',
        'status_raw', 'started_at', 'answered_at', 'ended_at', 'last_activity_at', 'recording_enabled',
        'recording_sid', 'recording_url', 'recording_duration_seconds', 'initial_node', 'final_node',
        'conversation_stage', 'outcome', 'end_reason', 'end_reason_raw', 'error_message', 'summary', 'language',
        'payment_method', 'payment_intent_id', 'payment_status', 'estimated_cost_cents', 'handoff_status',
        'collected_data', 'objections_encountered', 'metadata'];
    IF book.drains > 0 AND EXISTS (
        SELECT FROM call_sessions WHERE id = book.session_id
            AND status IN ('completed', 'failed', 'busy', 'no_answer', 'canceled')
    ) AND given ->> 'status' NOT IN ('completed', 'failed', 'busy', 'no_answer', 'canceled') THEN
        given := given - 'status';
    END IF;
    SELECT string_agg(format('%1$I = new.%1$I', name), ', ') INTO columns FROM unnest(known) AS name WHERE given ? name;
    IF columns IS NOT NULL THEN
        EXECUTE 'UPDATE call_sessions AS call SET ' || columns
            || ' FROM jsonb_populate_record(NULL::call_sessions, $1) AS new WHERE call.id = $2'
            USING given, book.session_id;
    END IF;
    UPDATE call_sessions SET extra = coalesce(extra, '{}') || unknown.fields
    FROM (
        SELECT given - known - ARRAY['call_sid', 'analysis', 'messages', 'transitions', 'metrics', 'retrievals',
            'extractions', 'interruptions', 'tool_calls', 'participants', 'costs', 'recordings'] AS fields
    ) AS unknown
    WHERE id = book.session_id AND unknown.fields <> '{}';
    book.tenant_id := coalesce(book.tenant_id, given ->> 'tenant_id');

    -- Its events.
    FOR family IN
        SELECT * FROM (VALUES
            ('messages', 'call_messages'::name, 'sequence'::name), ('transitions', 'call_transitions', 'sequence'),
            ('metrics', 'call_metrics', 'sequence'), ('retrievals', 'call_rag_retrievals', 'query_sequence'),
            ('extractions', 'call_extracted_variables', 'sequence'),
            ('interruptions', 'call_user_interruptions', 'sequence'), ('tool_calls', 'call_tool_calls', 'sequence'),
            ('participants', 'call_participants', 'sequence'), ('costs', 'call_cost_events', 'sequence'),
            ('recordings', 'call_recordings', 'sequence')
        ) AS families (key, table_name, counter)
        WHERE given ? key
    LOOP
        SELECT array_agg(attname ORDER BY attnum) INTO known FROM pg_attribute
        WHERE attrelid = quote_ident(family.table_name)::regclass AND attnum > 0 AND NOT attisdropped
            AND attgenerated = '';
        EXECUTE format(
            'INSERT INTO %1$I AS kept (%2$s) SELECT %3$s FROM jsonb_array_elements($1) WITH ORDINALITY AS item (event, place) '
            'CROSS JOIN LATERAL jsonb_populate_record(NULL::%1$I, item.event || jsonb_build_object('
            '''session_id'', $2, ''tenant_id'', $3, %4$L, 0, '
            '''event_id'', coalesce(item.event ->> ''event_id'', item.place::text))) AS new '
            'ON CONFLICT (session_id, event_id) DO UPDATE SET %5$s',
            family.table_name,
            (SELECT string_agg(quote_ident(name), ', ') FROM unnest(known) AS name),
            (SELECT string_agg(CASE name
                WHEN 'extra' THEN 'nullif(item.event - $4, ''{}'')'
                WHEN 'currency' THEN 'coalesce(new.currency, ''USD'')'
                WHEN 'duration_seconds' THEN CASE family.key
                    WHEN 'participants' THEN 'extract(epoch FROM new.left_at - new.joined_at)'
                    ELSE 'new.duration_seconds' END
                ELSE format('new.%I', name) END, ', ') FROM unnest(known) AS name),
            family.counter,
            (SELECT string_agg(format('%1$I = excluded.%1$I', name), ', ') FROM unnest(known) AS name
             WHERE name NOT IN ('session_id', 'event_id'))
        ) USING given -> family.key, book.session_id, book.tenant_id, known;
        PERFORM number_events(family.table_name, book.session_id, family.counter);
    END LOOP;

    -- What is made of them.
    IF jsonb_typeof(given -> 'analysis') = 'object' THEN
        INSERT INTO call_analysis AS kept (
            session_id, tenant_id, sentiment, sentiment_score, topics, keywords, success, summary, data)
        SELECT book.session_id, book.tenant_id, said.sentiment, said.sentiment_score, said.topics, said.keywords,
            said.success, said.summary, given -> 'analysis'
        FROM jsonb_populate_record(NULL::call_analysis, given -> 'analysis') AS said
        ON CONFLICT (session_id) DO UPDATE SET
            sentiment = coalesce(excluded.sentiment, kept.sentiment),
            sentiment_score = coalesce(excluded.sentiment_score, kept.sentiment_score),
            topics = coalesce(excluded.topics, kept.topics), keywords = coalesce(excluded.keywords, kept.keywords),
            success = coalesce(excluded.success, kept.success), summary = coalesce(excluded.summary, kept.summary),
            data = kept.data || excluded.data;
    END IF;
    IF given ? 'messages' THEN
        INSERT INTO call_transcripts AS kept (session_id, tenant_id, language, transcript_text, transcript_data)
        SELECT book.session_id, book.tenant_id, (SELECT language FROM call_sessions WHERE id = book.session_id),
            string_agg(coalesce(speaker, role) || ': ' || content, E'\n' ORDER BY sequence),
            jsonb_agg(jsonb_strip_nulls(jsonb_build_object('sequence', sequence, 'role', role, 'content', content,
                'timestamp', timestamp, 'speaker', speaker, 'start_ms', start_ms, 'end_ms', end_ms,
                'turn_number', turn_number, 'node_id', node_id)) ORDER BY sequence)
        FROM call_messages WHERE session_id = book.session_id
        HAVING count(*) > 0
        ON CONFLICT (session_id) DO UPDATE SET
            language = excluded.language, transcript_text = excluded.transcript_text,
            transcript_data = excluded.transcript_data;
    END IF;
    IF given ? 'costs' THEN
        DELETE FROM call_cost_breakdowns WHERE session_id = book.session_id;
        INSERT INTO call_cost_breakdowns (session_id, currency, tenant_id, by_service, total_cost_cents)
        SELECT book.session_id, currency, book.tenant_id, jsonb_object_agg(service, cents::text), sum(cents)
        FROM (
            SELECT currency, service, sum(coalesce(amount_cents, usage * unit_price_cents)) AS cents
            FROM call_cost_events
            WHERE session_id = book.session_id AND coalesce(amount_cents, usage * unit_price_cents) IS NOT NULL
            GROUP BY currency, service
        ) AS charged
        GROUP BY currency;
    END IF;
    PERFORM summarize_call(book.session_id);

    UPDATE call_sessions SET drains = book.drains + 1, archived_at = moment WHERE id = book.session_id;
    UPDATE call_sids AS entry SET
        drains = entry.drains + 1, tenant_id = book.tenant_id,
        state = CASE WHEN call.status IN ('initiated', 'ringing', 'in_progress') THEN 'checkpointed' ELSE 'archived' END,
        status = call.status, started_at = coalesce(call.started_at, entry.started_at), ended_at = call.ended_at,
        last_activity_at = call.last_activity_at, last_seen_at = greatest(entry.last_seen_at, moment),
        archived_at = moment
    FROM call_sessions AS call
    WHERE call.id = book.session_id AND entry.call_sid = sid AND entry.generation = book.generation;
    INSERT INTO call_journal (session_id, at, event, detail)
    VALUES (book.session_id, clock_timestamp(), 'loaded', jsonb_build_object('drain', book.drains + 1))
    ON CONFLICT DO NOTHING;
    RETURN book.session_id;
END $$;

-- Load many conversations, an array of what upsert_conversation() takes: a row for each, in their order, that says what
-- became of it. One that cannot be loaded leaves nothing behind and stops no other. A call that is archived already is
-- left alone.
CREATE FUNCTION batch_insert_conversations(conversations jsonb)
    RETURNS TABLE (place integer, call_sid text, session_id uuid, result text, error text)
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
#variable_conflict use_column
DECLARE
    item record;
    loaded jsonb := '{}';
    outcome jsonb;
BEGIN
    IF jsonb_typeof(conversations) <> 'array' THEN
        RAISE EXCEPTION 'conversations must be a JSON array' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- In one order everywhere, so that two who load the same calls do not wait for each other.
    FOR item IN
        SELECT ordinality AS place, value, value ->> 'call_sid' AS sid
        FROM jsonb_array_elements(conversations) WITH ORDINALITY
        ORDER BY value ->> 'call_sid' COLLATE "C", ordinality
    LOOP
        BEGIN
            IF EXISTS (SELECT FROM call_sids AS book WHERE book.call_sid = item.sid AND book.drains > 0) THEN
                outcome := jsonb_build_object('result', 'exists', 'session_id', session_id_of(item.sid));
            ELSE
                outcome := jsonb_build_object('result', 'inserted', 'session_id', upsert_conversation(item.value));
            END IF;
        EXCEPTION
            WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded OR cardinality_violation
                OR object_not_in_prerequisite_state OR object_in_use THEN
            outcome := jsonb_build_object('result', 'failed', 'error', SQLERRM);
        END;
        loaded := loaded || jsonb_build_object(item.place, outcome);
    END LOOP;
    RETURN QUERY
    SELECT ordinality::integer, value ->> 'call_sid', (loaded -> ordinality::text ->> 'session_id')::uuid,
        loaded -> ordinality::text ->> 'result', loaded -> ordinality::text ->> 'error'
    FROM jsonb_array_elements(conversations) WITH ORDINALITY
    ORDER BY ordinality;
END $$;

-- -- older names ------------------------------------------------------------------------------------------------------

-- The schemas that have compatibility views of ours, so that they can be told from other views, and taken away.
CREATE TABLE session_bridge_compatibility (
    schema_name name PRIMARY KEY,
    made_at     timestamptz NOT NULL DEFAULT now()
);

-- Make, in a schema of their own, views with the names that teams have queried before. Made anew where they are ours.
CREATE FUNCTION make_compatibility_views(target name) RETURNS void
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    taken text;
BEGIN
    IF target = current_schema() THEN
        RAISE EXCEPTION 'the views of older names need a schema of their own, and % is the archive''s', target
            USING ERRCODE = 'duplicate_schema';
    END IF;
    PERFORM drop_compatibility_views(target);
    SELECT string_agg(relname, ', ') INTO taken FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = target AND relname IN ('calls', 'voice_calls', 'voice_messages', 'call_logs', 'conversations');
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'schema % has a % of its own', target, taken USING ERRCODE = 'duplicate_table';
    END IF;
    IF to_regnamespace(quote_ident(target)) IS NULL THEN
        EXECUTE format('CREATE SCHEMA %I', target);
    END IF;
    EXECUTE format($view$
        CREATE VIEW %I.calls WITH (security_invoker) AS
        SELECT call.id, call.call_sid, call.tenant_id, call.user_id, call.agent_id, call.agent_name, call.provider,
            call.direction, call.from_number, call.to_number,
            CASE call.direction WHEN 'outbound' THEN call.to_number ELSE call.from_number END AS phone_number,
            call.status, call.outcome, call.end_reason, call.started_at, call.ended_at,
            call.duration_seconds, round(call.duration_seconds)::integer AS duration, call.recording_url,
            text.transcript_text AS full_transcript, text.transcript_data AS transcript,
            coalesce(call.summary, analysis.summary) AS summary, analysis.sentiment, call.collected_data,
            call.metadata, call.total_cost_cents / 100 AS cost, call.total_cost_cents AS cost_cents,
            call.first_archived_at AS created_at, call.archived_at AS updated_at
        FROM call_sessions AS call
        LEFT JOIN call_transcripts AS text ON text.session_id = call.id
        LEFT JOIN call_analysis AS analysis ON analysis.session_id = call.id
        $view$, target);
    EXECUTE format($view$
        CREATE VIEW %I.voice_calls WITH (security_invoker) AS
        SELECT call.id, call.call_sid, call.stream_sid, call.room_name, call.tenant_id, call.user_id, call.agent_id,
            call.persona_id, call.channel, call.direction, call.from_number, call.to_number, call.status,
            call.started_at, call.answered_at, call.ended_at, call.duration_seconds,
            call.recording_sid, call.recording_url, text.transcript_text AS full_transcript,
            call.total_messages AS message_count, call.total_turns AS turn_count,
            call.avg_user_to_bot_latency_ms AS avg_latency_ms, call.conversation_stage, call.outcome, call.metadata,
            call.first_archived_at AS created_at, call.archived_at AS updated_at
        FROM call_sessions AS call
        LEFT JOIN call_transcripts AS text ON text.session_id = call.id
        $view$, target);
    EXECUTE format($view$
        CREATE VIEW %I.voice_messages WITH (security_invoker) AS
        SELECT message.session_id::text || ':' || message.event_id AS id, message.session_id AS call_id,
            message.session_id AS voice_call_id, message.tenant_id, message.sequence AS message_index, message.role,
            coalesce(message.speaker, message.role) AS speaker, message.content, message.content AS text,
            message.timestamp, message.timestamp AS created_at, message.start_ms, message.end_ms, message.confidence,
            message.audio_url, message.tokens_used, message.model
        FROM call_messages AS message
        $view$, target);
    EXECUTE format($view$
        CREATE VIEW %I.call_logs WITH (security_invoker) AS
        SELECT call.id, call.id AS call_id, call.call_sid, call.tenant_id, call.user_id, call.agent_id,
            call.from_number AS caller_number, call.to_number AS called_number,
            call.direction AS call_type, call.status AS call_status, call.started_at AS start_time,
            call.ended_at AS end_time, round(call.duration_seconds)::integer AS call_duration,
            call.end_reason AS hangup_reason, call.recording_url, text.transcript_text AS full_transcript,
            call.summary AS call_summary, call.outcome AS call_outcome, call.error_message,
            call.total_cost_cents / 100 AS call_cost, call.first_archived_at AS created_at
        FROM call_sessions AS call
        LEFT JOIN call_transcripts AS text ON text.session_id = call.id
        $view$, target);
    EXECUTE format($view$
        CREATE VIEW %I.conversations WITH (security_invoker) AS
        SELECT call.id, call.id AS conversation_id, call.call_sid AS session_id, call.tenant_id, call.user_id,
            call.agent_id, call.agent_name, call.channel, call.language, call.status, call.outcome,
            text.transcript_data AS messages, text.transcript_text AS full_transcript, call.summary,
            analysis.sentiment, analysis.topics, call.total_messages AS message_count, call.collected_data,
            call.metadata, call.started_at, call.ended_at, call.duration_seconds,
            call.first_archived_at AS created_at, call.archived_at AS updated_at
        FROM call_sessions AS call
        LEFT JOIN call_transcripts AS text ON text.session_id = call.id
        LEFT JOIN call_analysis AS analysis ON analysis.session_id = call.id
        $view$, target);
    INSERT INTO session_bridge_compatibility (schema_name) VALUES (target);
END $$;

-- Take them away, and leave whatever else is in that schema; false where there are none.
CREATE FUNCTION drop_compatibility_views(target name) RETURNS boolean
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    view_name name;
BEGIN
    IF NOT EXISTS (SELECT FROM session_bridge_compatibility WHERE schema_name = target) THEN
        RETURN false;
    END IF;
    FOREACH view_name IN ARRAY ARRAY['calls', 'voice_calls', 'voice_messages', 'call_logs', 'conversations'] LOOP
        EXECUTE format('DROP VIEW IF EXISTS %I.%I', target, view_name);
    END LOOP;
    DELETE FROM session_bridge_compatibility WHERE schema_name = target;
    RETURN true;
END $$;
