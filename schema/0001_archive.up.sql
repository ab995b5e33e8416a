-- The archive: a book of call SIDs, the calls, and what belongs to each call.
--
-- Nothing here names a schema: everything lands in the first schema of the search path, which the setting
-- SESSION_BRIDGE_SCHEMA chooses. Tables that carry a call are partitioned by month over session_id, a UUIDv7 whose
-- time is the call's; 0002 makes the months.

-- Who this archive is. A Redis namespace remembers the one it drains into, and a worker with another refuses.
CREATE TABLE session_bridge_archive (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    archive_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO session_bridge_archive DEFAULT VALUES;

-- The book: every call SID ever seen, what session it is, and where it stands. The one place where a call SID is
-- unique; its row's lock orders the drains of one call. A SID that a later call uses again has a later generation.
CREATE TABLE call_sids (
    call_sid         text COLLATE "C" NOT NULL,
    generation       integer NOT NULL DEFAULT 1,
    session_id       uuid NOT NULL,
    tenant_id        text,
    state            text NOT NULL
        CHECK (state IN ('live', 'checkpointed', 'archived', 'dead', 'lost', 'retired')),
    status           text,
    drains           integer NOT NULL DEFAULT 0,
    started_at       timestamptz,
    ended_at         timestamptz,
    first_seen_at    timestamptz NOT NULL,
    last_seen_at     timestamptz NOT NULL,
    last_change_at   timestamptz NOT NULL,
    last_activity_at timestamptz,
    checkpointed_at  timestamptz,
    archived_at      timestamptz,
    fingerprint      text,
    PRIMARY KEY (call_sid, generation)
) WITH (fillfactor = 80);

-- The sweep asks for calls that it believes alive and has not met in its last round.
CREATE INDEX call_sids_alive ON call_sids (state, last_seen_at) WHERE state IN ('live', 'checkpointed');

-- A call.
CREATE TABLE call_sessions (
    id                          uuid NOT NULL,
    call_sid                    text COLLATE "C" NOT NULL,
    generation                  integer NOT NULL,
    tenant_id                   text,
    provider                    text,
    account_sid                 text,
    parent_call_sid             text,
    stream_sid                  text,
    room_name                   text,
    agent_id                    text,
    agent_name                  text,
    agent_version               text,
    persona_id                  text,
    user_id                     text,
    channel                     text,
    direction                   text,
    from_number                 text,
    to_number                   text,
    status                      text NOT NULL CHECK (status IN (
        'initiated', 'ringing', 'in_progress', 'completed', 'failed', 'busy', 'no_answer', 'canceled',
        'abandoned', 'lost')),
    status_raw                  text,
    status_by                   text,
    status_sequence             bigint,
    started_at                  timestamptz,
    answered_at                 timestamptz,
    ended_at                    timestamptz,
    last_activity_at            timestamptz,
    recording_enabled           boolean,
    recording_sid               text,
    recording_url               text,
    recording_duration_seconds  double precision,
    initial_node                text,
    final_node                  text,
    conversation_stage          text,
    outcome                     text,
    end_reason                  text,
    end_reason_raw              text,
    error_message               text,
    summary                     text,
    language                    text,
    payment_method              text,
    payment_intent_id           text,
    payment_status              text,
    estimated_cost_cents        numeric(24, 10),
    handoff_status              text,
    collected_data              jsonb,
    objections_encountered      jsonb,
    metadata                    jsonb,
    extra                       jsonb,
    inferred                    jsonb,
    duration_seconds            double precision,
    total_turns                 integer NOT NULL,
    total_messages              integer NOT NULL,
    total_user_messages         integer NOT NULL,
    total_assistant_messages    integer NOT NULL,
    total_transitions           integer NOT NULL,
    total_interruptions         integer NOT NULL,
    total_rag_retrievals        integer NOT NULL,
    total_rag_chunks            integer NOT NULL,
    total_extractions           integer NOT NULL,
    total_tool_calls            integer NOT NULL,
    avg_stt_delay_ms            double precision,
    avg_llm_ttfb_ms             double precision,
    avg_llm_processing_ms       double precision,
    avg_tts_ttfb_ms             double precision,
    avg_user_to_bot_latency_ms  double precision,
    p95_user_to_bot_latency_ms  double precision,
    max_user_to_bot_latency_ms  double precision,
    avg_rag_processing_ms       double precision,
    avg_extraction_ms           double precision,
    total_prompt_tokens         bigint,
    total_completion_tokens     bigint,
    total_llm_tokens            bigint,
    total_tts_characters        bigint,
    total_cost_cents            numeric(24, 10),
    finalize_reason             text,
    finalized_by                text,
    completeness                text NOT NULL
        CHECK (completeness IN ('complete', 'partial', 'rescued', 'reconstructed')),
    row_counts                  jsonb NOT NULL,
    content_digest              text NOT NULL,
    drains                      integer NOT NULL,
    first_archived_at           timestamptz NOT NULL,
    archived_at                 timestamptz NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- For those who come with a SID, and for those who come with a range of days.
CREATE INDEX call_sessions_call_sid ON call_sessions (call_sid);
CREATE INDEX call_sessions_started_at ON call_sessions (started_at);

-- A call's whole conversation, as text to read and as JSON to work with.
CREATE TABLE call_transcripts (
    session_id         uuid NOT NULL,
    tenant_id          text,
    language           text,
    transcript_text    text NOT NULL,
    transcript_data    jsonb NOT NULL,
    transcript_history jsonb,
    PRIMARY KEY (session_id)
) PARTITION BY RANGE (session_id);

-- A message.
CREATE TABLE call_messages (
    session_id      uuid NOT NULL,
    event_id        text NOT NULL,
    tenant_id       text,
    timestamp       timestamptz,
    sequence        integer NOT NULL,
    role            text NOT NULL,
    content         text NOT NULL,
    node_id         text,
    turn_number     integer,
    was_interrupted boolean,
    speaker         text,
    start_ms        double precision,
    end_ms          double precision,
    confidence      double precision,
    audio_url       text,
    tokens_used     bigint,
    model           text,
    extra           jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A change of the workflow's node.
CREATE TABLE call_transitions (
    session_id     uuid NOT NULL,
    event_id       text NOT NULL,
    tenant_id      text,
    timestamp      timestamptz,
    sequence       integer NOT NULL,
    from_node_id   text,
    from_node_name text,
    to_node_id     text NOT NULL,
    to_node_name   text,
    reason         text,
    condition      text,
    turn_number    integer,
    extra          jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A measurement; latencies in milliseconds, the unit they came in in `unit`.
CREATE TABLE call_metrics (
    session_id  uuid NOT NULL,
    event_id    text NOT NULL,
    tenant_id   text,
    timestamp   timestamptz,
    sequence    integer NOT NULL,
    metric_type text NOT NULL,
    value       double precision NOT NULL,
    unit        text,
    processor   text,
    model       text,
    turn_number integer,
    node_id     text,
    extra       jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A query of the knowledge base.
CREATE TABLE call_rag_retrievals (
    session_id         uuid NOT NULL,
    event_id           text NOT NULL,
    tenant_id          text,
    timestamp          timestamptz,
    query_sequence     integer NOT NULL,
    query_text         text NOT NULL,
    query_params       jsonb,
    search_mode        text,
    top_k              integer,
    processing_time_ms double precision,
    node_id            text,
    turn_number        integer,
    extra              jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A retrieved chunk; its text is kept once, in rag_chunk_contents.
CREATE TABLE call_rag_chunks (
    session_id   uuid NOT NULL,
    event_id     text NOT NULL,
    tenant_id    text,
    timestamp    timestamptz,
    chunk_rank   integer NOT NULL,
    chunk_id     text,
    document_id  text,
    filename     text,
    s3_key       text,
    chunk_index  integer,
    token_count  integer,
    score        double precision,
    content_hash bytea,
    extra        jsonb,
    PRIMARY KEY (session_id, event_id, chunk_rank)
) PARTITION BY RANGE (session_id);

-- An attempt to take variables out of the conversation.
CREATE TABLE call_extracted_variables (
    session_id          uuid NOT NULL,
    event_id            text NOT NULL,
    tenant_id           text,
    timestamp           timestamptz,
    sequence            integer NOT NULL,
    variables_requested jsonb,
    variables_extracted jsonb,
    success             boolean,
    confidence          double precision,
    processing_time_ms  double precision,
    node_id             text,
    turn_number         integer,
    extra               jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- An interruption of the agent by the user.
CREATE TABLE call_user_interruptions (
    session_id          uuid NOT NULL,
    event_id            text NOT NULL,
    tenant_id           text,
    timestamp           timestamptz,
    sequence            integer NOT NULL,
    interrupted_at_turn integer NOT NULL,
    node_id             text,
    extra               jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A call of a tool.
CREATE TABLE call_tool_calls (
    session_id  uuid NOT NULL,
    event_id    text NOT NULL,
    tenant_id   text,
    timestamp   timestamptz,
    sequence    integer NOT NULL,
    name        text NOT NULL,
    arguments   jsonb,
    output      jsonb,
    is_error    boolean,
    duration_ms double precision,
    node_id     text,
    turn_number integer,
    extra       jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A party to the call.
CREATE TABLE call_participants (
    session_id        uuid NOT NULL,
    event_id          text NOT NULL,
    tenant_id         text,
    timestamp         timestamptz,
    sequence          integer NOT NULL,
    identity          text NOT NULL,
    participant_type  text,
    name              text,
    user_id           text,
    joined_at         timestamptz,
    left_at           timestamptz,
    is_muted          boolean,
    disconnect_reason text,
    duration_seconds  double precision,
    extra             jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- One charge or usage, as it was reported.
CREATE TABLE call_cost_events (
    session_id       uuid NOT NULL,
    event_id         text NOT NULL,
    tenant_id        text,
    timestamp        timestamptz,
    sequence         integer NOT NULL,
    service          text NOT NULL,
    amount_cents     numeric(24, 10),
    usage            numeric(24, 10),
    unit             text,
    unit_price_cents numeric(24, 10),
    currency         text NOT NULL,
    provider         text,
    model            text,
    extra            jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- A recording of the call or of a part of it.
CREATE TABLE call_recordings (
    session_id       uuid NOT NULL,
    event_id         text NOT NULL,
    tenant_id        text,
    timestamp        timestamptz,
    sequence         integer NOT NULL,
    recording_sid    text,
    recording_url    text,
    duration_seconds double precision,
    channels         integer,
    status           text,
    track            text,
    extra            jsonb,
    PRIMARY KEY (session_id, event_id)
) PARTITION BY RANGE (session_id);

-- What a call cost, by service; one currency a row.
CREATE TABLE call_cost_breakdowns (
    session_id       uuid NOT NULL,
    currency         text NOT NULL,
    tenant_id        text,
    by_service       jsonb NOT NULL,
    total_cost_cents numeric(24, 10) NOT NULL,
    PRIMARY KEY (session_id, currency)
) PARTITION BY RANGE (session_id);

-- What an analysis said of the call; none or one a call.
CREATE TABLE call_analysis (
    session_id      uuid NOT NULL,
    tenant_id       text,
    sentiment       text,
    sentiment_score double precision,
    topics          jsonb,
    keywords        jsonb,
    success         boolean,
    summary         text,
    data            jsonb NOT NULL,
    PRIMARY KEY (session_id)
) PARTITION BY RANGE (session_id);

-- An event of a family we do not know yet.
CREATE TABLE call_events (
    session_id uuid NOT NULL,
    family     text NOT NULL,
    event_id   text NOT NULL,
    tenant_id  text,
    timestamp  timestamptz,
    sequence   integer NOT NULL,
    payload    jsonb NOT NULL,
    PRIMARY KEY (session_id, family, event_id)
) PARTITION BY RANGE (session_id);

-- One distinct chunk text of a tenant and month, however many calls retrieved it.
CREATE TABLE rag_chunk_contents (
    month        date NOT NULL,
    tenant_id    text NOT NULL,
    content_hash bytea NOT NULL,
    content      text NOT NULL,
    PRIMARY KEY (month, tenant_id, content_hash)
) PARTITION BY RANGE (month);

-- What happened to a call on its way here: drains, checkpoints, refusals, late merges. Told by `session-bridge explain`.
CREATE TABLE call_journal (
    session_id uuid NOT NULL,
    at         timestamptz NOT NULL,
    event      text NOT NULL,
    detail     jsonb NOT NULL,
    PRIMARY KEY (session_id, at, event)
) PARTITION BY RANGE (session_id);

-- A field we could not understand, or not whole: its raw bytes and why.
CREATE TABLE call_session_rejects (
    session_id  uuid NOT NULL,
    digest      bytea NOT NULL,
    call_sid    text COLLATE "C" NOT NULL,
    tenant_id   text,
    field       text NOT NULL,
    reason      text NOT NULL,
    error       text NOT NULL,
    size_bytes  bigint NOT NULL,
    field_raw   bytea NOT NULL,
    raw         bytea NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, digest)
);

-- A whole session we could not archive: every field raw. Shown and retried by `session-bridge dead`.
CREATE TABLE dead_sessions (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_sid    text COLLATE "C" NOT NULL,
    session_id  uuid,
    tenant_id   text,
    reason      text NOT NULL,
    error       text NOT NULL,
    attempts    integer NOT NULL,
    fields      integer NOT NULL,
    size_bytes  bigint NOT NULL,
    died_at     timestamptz NOT NULL DEFAULT now(),
    retried_at  timestamptz
);

-- The fields of a dead session, each a row of its own so that none has to be held in memory beside the others.
CREATE TABLE dead_session_fields (
    dead_id     bigint NOT NULL REFERENCES dead_sessions ON DELETE CASCADE,
    digest      bytea NOT NULL,
    field_raw   bytea NOT NULL,
    raw         bytea NOT NULL,
    PRIMARY KEY (dead_id, digest)
);
CREATE INDEX dead_sessions_call_sid ON dead_sessions (call_sid);

-- The least session id a call of this moment or later can have: `session_id >= session_id_floor('2026-11-01')`.
CREATE FUNCTION session_id_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(
        least(greatest(floor(extract(epoch FROM moment) * 1000), 0), 281474976710655)::bigint
    ), 12, '0') || '00000000000000000000')::uuid;

-- The month, in UTC, of a session id.
CREATE FUNCTION session_month(session_id uuid) RETURNS date
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN date_trunc('month', to_timestamp(
        ('x' || translate(left(session_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC')::date;

-- The session that a call SID names: the latest, where a SID was used again.
CREATE FUNCTION session_id_of(sid text) RETURNS uuid
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    BEGIN ATOMIC
        SELECT session_id FROM call_sids WHERE call_sid = sid ORDER BY generation DESC LIMIT 1;
    END;

-- Retrieved chunks with their text.
CREATE VIEW call_rag_chunk_texts WITH (security_invoker) AS
SELECT chunk.*, kept.content
FROM call_rag_chunks AS chunk
LEFT JOIN rag_chunk_contents AS kept
    ON kept.month = session_month(chunk.session_id)
    AND kept.tenant_id = coalesce(chunk.tenant_id, '')
    AND kept.content_hash = chunk.content_hash;
