-- Search: by words, in the language of each call, and by meaning, where pgvector is there.
--
-- What is indexed is an expression and not a column: a stored tsvector is more than half as large as the text it is
-- made of, and would be written with every call only to be read by a search. The words of a text are made again for the
-- few hundred calls that are ranked.

-- The configuration of PostgreSQL for a language as a call names it: 'en', 'en-US', 'eng', 'English'. A language that
-- PostgreSQL has none for, like Polish, and one that nobody named, is taken as it is written: 'simple'.
CREATE FUNCTION search_configuration(language text) RETURNS regconfig
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE lower(split_part(replace(trim(language), '_', '-'), '-', 1))
        WHEN 'en' THEN 'pg_catalog.english'::regconfig WHEN 'eng' THEN 'pg_catalog.english'::regconfig
        WHEN 'english' THEN 'pg_catalog.english'::regconfig
        WHEN 'hi' THEN 'pg_catalog.hindi'::regconfig WHEN 'hin' THEN 'pg_catalog.hindi'::regconfig
        WHEN 'hindi' THEN 'pg_catalog.hindi'::regconfig
        WHEN 'es' THEN 'pg_catalog.spanish'::regconfig WHEN 'spa' THEN 'pg_catalog.spanish'::regconfig
        WHEN 'spanish' THEN 'pg_catalog.spanish'::regconfig
        WHEN 'fr' THEN 'pg_catalog.french'::regconfig WHEN 'fra' THEN 'pg_catalog.french'::regconfig
        WHEN 'french' THEN 'pg_catalog.french'::regconfig
        WHEN 'de' THEN 'pg_catalog.german'::regconfig WHEN 'deu' THEN 'pg_catalog.german'::regconfig
        WHEN 'german' THEN 'pg_catalog.german'::regconfig
        WHEN 'pt' THEN 'pg_catalog.portuguese'::regconfig WHEN 'por' THEN 'pg_catalog.portuguese'::regconfig
        WHEN 'portuguese' THEN 'pg_catalog.portuguese'::regconfig
        WHEN 'it' THEN 'pg_catalog.italian'::regconfig WHEN 'ita' THEN 'pg_catalog.italian'::regconfig
        WHEN 'italian' THEN 'pg_catalog.italian'::regconfig
        WHEN 'nl' THEN 'pg_catalog.dutch'::regconfig WHEN 'nld' THEN 'pg_catalog.dutch'::regconfig
        WHEN 'dutch' THEN 'pg_catalog.dutch'::regconfig
        WHEN 'ru' THEN 'pg_catalog.russian'::regconfig WHEN 'rus' THEN 'pg_catalog.russian'::regconfig
        WHEN 'russian' THEN 'pg_catalog.russian'::regconfig
        WHEN 'ar' THEN 'pg_catalog.arabic'::regconfig WHEN 'ara' THEN 'pg_catalog.arabic'::regconfig
        WHEN 'arabic' THEN 'pg_catalog.arabic'::regconfig
        WHEN 'hy' THEN 'pg_catalog.armenian'::regconfig WHEN 'hye' THEN 'pg_catalog.armenian'::regconfig
        WHEN 'armenian' THEN 'pg_catalog.armenian'::regconfig
        WHEN 'eu' THEN 'pg_catalog.basque'::regconfig WHEN 'eus' THEN 'pg_catalog.basque'::regconfig
        WHEN 'basque' THEN 'pg_catalog.basque'::regconfig
        WHEN 'ca' THEN 'pg_catalog.catalan'::regconfig WHEN 'cat' THEN 'pg_catalog.catalan'::regconfig
        WHEN 'catalan' THEN 'pg_catalog.catalan'::regconfig
        WHEN 'da' THEN 'pg_catalog.danish'::regconfig WHEN 'dan' THEN 'pg_catalog.danish'::regconfig
        WHEN 'danish' THEN 'pg_catalog.danish'::regconfig
        WHEN 'fi' THEN 'pg_catalog.finnish'::regconfig WHEN 'fin' THEN 'pg_catalog.finnish'::regconfig
        WHEN 'finnish' THEN 'pg_catalog.finnish'::regconfig
        WHEN 'el' THEN 'pg_catalog.greek'::regconfig WHEN 'ell' THEN 'pg_catalog.greek'::regconfig
        WHEN 'greek' THEN 'pg_catalog.greek'::regconfig
        WHEN 'hu' THEN 'pg_catalog.hungarian'::regconfig WHEN 'hun' THEN 'pg_catalog.hungarian'::regconfig
        WHEN 'hungarian' THEN 'pg_catalog.hungarian'::regconfig
        WHEN 'id' THEN 'pg_catalog.indonesian'::regconfig WHEN 'ind' THEN 'pg_catalog.indonesian'::regconfig
        WHEN 'indonesian' THEN 'pg_catalog.indonesian'::regconfig
        WHEN 'ga' THEN 'pg_catalog.irish'::regconfig WHEN 'gle' THEN 'pg_catalog.irish'::regconfig
        WHEN 'irish' THEN 'pg_catalog.irish'::regconfig
        WHEN 'lt' THEN 'pg_catalog.lithuanian'::regconfig WHEN 'lit' THEN 'pg_catalog.lithuanian'::regconfig
        WHEN 'lithuanian' THEN 'pg_catalog.lithuanian'::regconfig
        WHEN 'ne' THEN 'pg_catalog.nepali'::regconfig WHEN 'nep' THEN 'pg_catalog.nepali'::regconfig
        WHEN 'nepali' THEN 'pg_catalog.nepali'::regconfig
        WHEN 'no' THEN 'pg_catalog.norwegian'::regconfig WHEN 'nb' THEN 'pg_catalog.norwegian'::regconfig
        WHEN 'nn' THEN 'pg_catalog.norwegian'::regconfig WHEN 'nor' THEN 'pg_catalog.norwegian'::regconfig
        WHEN 'norwegian' THEN 'pg_catalog.norwegian'::regconfig
        WHEN 'ro' THEN 'pg_catalog.romanian'::regconfig WHEN 'ron' THEN 'pg_catalog.romanian'::regconfig
        WHEN 'romanian' THEN 'pg_catalog.romanian'::regconfig
        WHEN 'sr' THEN 'pg_catalog.serbian'::regconfig WHEN 'srp' THEN 'pg_catalog.serbian'::regconfig
        WHEN 'serbian' THEN 'pg_catalog.serbian'::regconfig
        WHEN 'sv' THEN 'pg_catalog.swedish'::regconfig WHEN 'swe' THEN 'pg_catalog.swedish'::regconfig
        WHEN 'swedish' THEN 'pg_catalog.swedish'::regconfig
        WHEN 'ta' THEN 'pg_catalog.tamil'::regconfig WHEN 'tam' THEN 'pg_catalog.tamil'::regconfig
        WHEN 'tamil' THEN 'pg_catalog.tamil'::regconfig
        WHEN 'tr' THEN 'pg_catalog.turkish'::regconfig WHEN 'tur' THEN 'pg_catalog.turkish'::regconfig
        WHEN 'turkish' THEN 'pg_catalog.turkish'::regconfig
        WHEN 'yi' THEN 'pg_catalog.yiddish'::regconfig WHEN 'yid' THEN 'pg_catalog.yiddish'::regconfig
        WHEN 'yiddish' THEN 'pg_catalog.yiddish'::regconfig
        ELSE 'pg_catalog.simple'::regconfig
    END;

-- The part of a text that is searched: at most 200,000 characters and 250,000 bytes. A tsvector holds 1 MB, and a row
-- whose words are more could not be archived at all. The worst text is of short words joined by hyphens, each kept
-- whole and in its parts, which makes three and a half bytes of one.
CREATE FUNCTION search_text(content text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left(content, CASE
        WHEN octet_length(content) <= 250000 THEN 200000
        WHEN octet_length(left(content, 200000)) <= 250000 THEN 200000
        ELSE 62500
    END);

-- The words of a text, as they are indexed. Its cost keeps the planner from making the words of every call of a week
-- where the index would answer; written in SQL it would be taken apart, and its cost forgotten.
CREATE FUNCTION search_words(language text, content text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 SET search_path FROM CURRENT
    AS $$
BEGIN
    RETURN to_tsvector(search_configuration(language), search_text(content));
END $$;

-- search_calls() and search_messages() ask for this: a message is found by its transcript's words, then in its call.
CREATE INDEX call_transcripts_words ON call_transcripts USING gin (search_words(language, transcript_text));

-- A chunk text has the language of the call that brought it first. search_chunks() asks for this index, and for the
-- calls that retrieved a text, the latest first.
ALTER TABLE rag_chunk_contents ADD COLUMN language text;
CREATE INDEX rag_chunk_contents_words ON rag_chunk_contents USING gin (search_words(language, content));
CREATE INDEX call_rag_chunks_content ON call_rag_chunks (content_hash, session_id) WHERE content_hash IS NOT NULL;

-- When a call was, as its id says: its start, or when it was first seen.
CREATE FUNCTION session_time(session_id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(('x' || translate(left(session_id::text, 13), '-', ''))::bit(48)::bigint / 1000.0);

-- What a person typed, as a query in each configuration, in the syntax of websearch_to_tsquery(): words, "a phrase",
-- or, -without. `found_by` is what the index is asked for: the words that must occur, in whichever language. It finds
-- more than is wanted; each text is then held against the query in its own language.
CREATE FUNCTION search_queries(
    query text, OUT configurations regconfig[], OUT queries tsquery[], OUT found_by tsquery
)
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
    AS $$
DECLARE
    needed text;
BEGIN
    SELECT array_agg(asked.configuration), array_agg(websearch_to_tsquery(asked.configuration, query))
    INTO configurations, queries
    FROM (
        SELECT DISTINCT search_configuration(code) AS configuration
        FROM unnest(ARRAY[
            'en', 'hi', 'es', 'fr', 'de', 'pt', 'it', 'nl', 'ru', 'ar', 'hy', 'eu', 'ca', 'da', 'fi', 'el', 'hu',
            'id', 'ga', 'lt', 'ne', 'no', 'ro', 'sr', 'sv', 'ta', 'tr', 'yi', ''
        ]) AS code
    ) AS asked;
    FOR needed IN SELECT DISTINCT querytree(one) FROM unnest(queries) AS one LOOP
        IF needed = 'T' THEN
            RAISE EXCEPTION 'a search needs a word that must occur, besides those that must not'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        CONTINUE WHEN needed = '';
        found_by := CASE WHEN found_by IS NULL THEN needed::tsquery ELSE found_by || needed::tsquery END;
    END LOOP;
    IF found_by IS NULL THEN
        RAISE EXCEPTION 'a search needs a word' USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;

-- Calls whose transcripts have these words, the best first. Ranked are the `considered` latest of them: to rank a text
-- its words are made again. The snippet has <mark> around what was found and is not escaped for HTML.
--
-- `since` is held against the time in the session's id, so that a search of a week reads one partition or two.
CREATE FUNCTION search_calls(
    query text,
    tenant text DEFAULT NULL,
    agent text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    max_results integer DEFAULT 20,
    considered integer DEFAULT 500,
    mark text DEFAULT '<mark>',
    unmark text DEFAULT '</mark>'
)
    RETURNS TABLE (
        session_id uuid, call_sid text, tenant_id text, agent_id text, agent_name text, called_at timestamptz,
        language text, rank real, snippet text
    )
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode TO force_custom_plan SET jit TO off
    AS $$
#variable_conflict use_column
DECLARE
    configurations regconfig[];
    queries tsquery[];
    found_by tsquery;
BEGIN
    SELECT asked.* INTO configurations, queries, found_by FROM search_queries(query) AS asked;
    RETURN QUERY
    WITH ranked AS (
        SELECT call.id, call.call_sid, call.tenant_id, call.agent_id, call.agent_name, call.started_at,
            text.language, text.transcript_text, own.wanted, ts_rank(own.words, own.wanted, 1) AS rank
        FROM (
            SELECT indexed.session_id AS id
            FROM call_transcripts AS indexed
            WHERE search_words(indexed.language, indexed.transcript_text) @@ found_by
                AND indexed.session_id >= session_id_floor(coalesce(since, '-infinity'))
                AND (tenant IS NULL OR indexed.tenant_id = tenant)
            ORDER BY indexed.session_id DESC
        ) AS found
        JOIN call_sessions AS call ON call.id = found.id
        JOIN call_transcripts AS text ON text.session_id = found.id
        CROSS JOIN LATERAL (
            SELECT search_words(text.language, text.transcript_text) AS words,
                queries[array_position(configurations, search_configuration(text.language))] AS wanted
            OFFSET 0
        ) AS own
        WHERE (agent IS NULL OR call.agent_id = agent OR call.agent_name = agent) AND own.words @@ own.wanted
        ORDER BY found.id DESC
        LIMIT considered
    ), best AS (
        SELECT ranked.* FROM ranked ORDER BY ranked.rank DESC, ranked.id DESC LIMIT max_results
    )
    SELECT best.id, best.call_sid, best.tenant_id, best.agent_id, best.agent_name,
        coalesce(best.started_at, session_time(best.id)), best.language, best.rank,
        ts_headline(search_configuration(best.language), search_text(best.transcript_text), best.wanted,
            format('StartSel="%s", StopSel="%s", MaxFragments=2, MaxWords=24, MinWords=8', mark, unmark))
    FROM best ORDER BY best.rank DESC, best.id DESC;
END $$;

-- Messages that have these words, the best first; `speaker` is a name or a role. Only the text that search_text() leaves
-- of the transcript leads to its messages.
CREATE FUNCTION search_messages(
    query text,
    tenant text DEFAULT NULL,
    agent text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    said_by text DEFAULT NULL,
    max_results integer DEFAULT 20,
    considered integer DEFAULT 500,
    mark text DEFAULT '<mark>',
    unmark text DEFAULT '</mark>'
)
    RETURNS TABLE (
        session_id uuid, call_sid text, tenant_id text, agent_id text, agent_name text, called_at timestamptz,
        language text, sequence integer, speaker text, role text, said_at timestamptz, rank real, snippet text
    )
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode TO force_custom_plan SET jit TO off
    AS $$
#variable_conflict use_column
DECLARE
    configurations regconfig[];
    queries tsquery[];
    found_by tsquery;
BEGIN
    SELECT asked.* INTO configurations, queries, found_by FROM search_queries(query) AS asked;
    RETURN QUERY
    WITH ranked AS (
        SELECT call.id, call.call_sid, call.tenant_id, call.agent_id, call.agent_name, call.started_at, found.language,
            message.sequence, message.speaker, message.role, message.timestamp, message.content, own.wanted,
            ts_rank(own.words, own.wanted, 1) AS rank
        FROM (
            SELECT indexed.session_id AS id, indexed.language
            FROM call_transcripts AS indexed
            WHERE search_words(indexed.language, indexed.transcript_text) @@ found_by
                AND indexed.session_id >= session_id_floor(coalesce(since, '-infinity'))
                AND (tenant IS NULL OR indexed.tenant_id = tenant)
            ORDER BY indexed.session_id DESC
        ) AS found
        JOIN call_sessions AS call ON call.id = found.id
        JOIN call_messages AS message ON message.session_id = found.id
        CROSS JOIN LATERAL (
            SELECT search_words(found.language, message.content) AS words,
                queries[array_position(configurations, search_configuration(found.language))] AS wanted
            OFFSET 0
        ) AS own
        WHERE (agent IS NULL OR call.agent_id = agent OR call.agent_name = agent)
            AND (said_by IS NULL OR message.speaker = said_by OR message.role = said_by)
            AND own.words @@ own.wanted
        ORDER BY found.id DESC
        LIMIT considered
    ), best AS (
        SELECT ranked.* FROM ranked ORDER BY ranked.rank DESC, ranked.id DESC, ranked.sequence LIMIT max_results
    )
    SELECT best.id, best.call_sid, best.tenant_id, best.agent_id, best.agent_name,
        coalesce(best.started_at, session_time(best.id)), best.language, best.sequence,
        coalesce(best.speaker, best.role), best.role, best.timestamp, best.rank,
        ts_headline(search_configuration(best.language), search_text(best.content), best.wanted,
            format('StartSel="%s", StopSel="%s", MaxFragments=2, MaxWords=24, MinWords=8', mark, unmark))
    FROM best ORDER BY best.rank DESC, best.id DESC, best.sequence;
END $$;

-- Texts of the knowledge base that have these words, and of each the latest calls that retrieved it.
CREATE FUNCTION search_chunks(
    query text,
    tenant text DEFAULT NULL,
    agent text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    max_results integer DEFAULT 20,
    considered integer DEFAULT 500,
    mark text DEFAULT '<mark>',
    unmark text DEFAULT '</mark>',
    calls_of_each integer DEFAULT 3
)
    RETURNS TABLE (
        session_id uuid, call_sid text, tenant_id text, agent_id text, agent_name text, called_at timestamptz,
        language text, retrieval text, chunk_rank integer, filename text, rank real, snippet text
    )
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode TO force_custom_plan SET jit TO off
    AS $$
#variable_conflict use_column
DECLARE
    configurations regconfig[];
    queries tsquery[];
    found_by tsquery;
BEGIN
    SELECT asked.* INTO configurations, queries, found_by FROM search_queries(query) AS asked;
    RETURN QUERY
    WITH ranked AS (
        SELECT kept.month, kept.tenant_id, kept.content_hash, kept.language, kept.content, own.wanted,
            ts_rank(own.words, own.wanted, 1) AS rank
        FROM rag_chunk_contents AS kept
        CROSS JOIN LATERAL (
            SELECT search_words(kept.language, kept.content) AS words,
                queries[array_position(configurations, search_configuration(kept.language))] AS wanted
            OFFSET 0
        ) AS own
        WHERE search_words(kept.language, kept.content) @@ found_by
            AND kept.month >= date_trunc('month', coalesce(since, '-infinity') AT TIME ZONE 'UTC')::date
            AND (tenant IS NULL OR kept.tenant_id = tenant)
            AND own.words @@ own.wanted
        ORDER BY kept.month DESC
        LIMIT considered
    ), best AS (
        SELECT ranked.* FROM ranked ORDER BY ranked.rank DESC, ranked.month DESC LIMIT max_results
    ), retrieved AS (
        SELECT used.*, best.language, best.content, best.wanted, best.rank
        FROM best
        CROSS JOIN LATERAL (
            SELECT call.id, call.call_sid, call.tenant_id, call.agent_id, call.agent_name, call.started_at,
                chunk.event_id, chunk.chunk_rank, chunk.filename
            FROM call_rag_chunks AS chunk
            JOIN call_sessions AS call ON call.id = chunk.session_id
            WHERE chunk.content_hash = best.content_hash
                AND chunk.session_id >= session_id_floor(best.month::timestamp AT TIME ZONE 'UTC')
                AND chunk.session_id < session_id_floor((best.month + interval '1 month') AT TIME ZONE 'UTC')
                AND chunk.session_id >= session_id_floor(coalesce(since, '-infinity'))
                AND coalesce(chunk.tenant_id, '') = best.tenant_id
                AND (agent IS NULL OR call.agent_id = agent OR call.agent_name = agent)
            ORDER BY chunk.session_id DESC
            LIMIT calls_of_each
        ) AS used
        ORDER BY best.rank DESC, used.id DESC
        LIMIT max_results
    )
    SELECT retrieved.id, retrieved.call_sid, retrieved.tenant_id, retrieved.agent_id, retrieved.agent_name,
        coalesce(retrieved.started_at, session_time(retrieved.id)), retrieved.language, retrieved.event_id,
        retrieved.chunk_rank, retrieved.filename, retrieved.rank,
        ts_headline(search_configuration(retrieved.language), search_text(retrieved.content), retrieved.wanted,
            format('StartSel="%s", StopSel="%s", MaxFragments=2, MaxWords=24, MinWords=8', mark, unmark))
    FROM retrieved ORDER BY retrieved.rank DESC, retrieved.id DESC;
END $$;

-- -- by meaning ------------------------------------------------------------------------------------------------------

-- The models that calls were embedded with, and how far each has come: every call archived up to `archived_through` is
-- done. A worker that embeds holds the row by its lease, and by no lock, for a model may take its time.
CREATE TABLE embedding_models (
    model            text PRIMARY KEY,
    dimension        integer,
    archived_through timestamptz NOT NULL DEFAULT '-infinity',
    session_through  uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    lease            uuid,
    leased_until     timestamptz,
    first_used_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at     timestamptz
);

-- A part of a transcript, as a model sees it. The numbers are an array of PostgreSQL's own, so that this table is there,
-- has its months and goes the way of every other table also where pgvector is not; the index is made over the cast.
CREATE TABLE call_embeddings (
    session_id      uuid NOT NULL,
    model           text NOT NULL,
    part            integer NOT NULL,
    tenant_id       text,
    dimension       integer NOT NULL,
    first_character integer NOT NULL,
    characters      integer NOT NULL,
    text_digest     text NOT NULL,
    embedding       real[] NOT NULL,
    PRIMARY KEY (session_id, model, part)
) PARTITION BY RANGE (session_id);

-- The months that calls have, for they may go back further than those that are made ahead.
SELECT partition_by_month('call_embeddings');
SELECT create_monthly_partition('call_embeddings', to_date(substring(relname FROM '_y(\d{4}m\d{2})$'), 'YYYY"m"MM'))
FROM pg_inherits JOIN pg_class ON oid = inhrelid
WHERE inhparent = 'call_sessions'::regclass AND relname ~ '_y\d{4}m\d{2}$';

-- The worker asks for what was archived since it last embedded, late data included.
CREATE INDEX call_sessions_archived_at ON call_sessions (archived_at, id);

-- How vectors of this dimension are written, as pgvector indexes them; null without pgvector.
CREATE FUNCTION embedding_type(dimension integer, OUT vector_type text, OUT operators text, OUT distance text)
    LANGUAGE sql STABLE SET search_path FROM CURRENT
    AS $$
    SELECT format('%I.%s(%s)', nspname, kind, dimension), format('%I.%s_cosine_ops', nspname, kind),
        format('OPERATOR(%I.<=>)', nspname)
    FROM pg_extension
    JOIN pg_namespace ON pg_namespace.oid = extnamespace
    CROSS JOIN (SELECT CASE WHEN dimension <= 2000 THEN 'vector' ELSE 'halfvec' END AS kind) AS indexable
    WHERE extname = 'vector'
    $$;

-- Make what a search by meaning needs of a model: pgvector, and the model's index. Null when all is there, else what is
-- missing and what to do.
CREATE FUNCTION prepare_semantic_search(model text, dimension integer) RETURNS text
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    kind record;
BEGIN
    IF dimension NOT BETWEEN 1 AND 4000 THEN
        RETURN format('pgvector indexes 1 to 4000 dimensions, and %s has %s: take another model', model, dimension);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
            RETURN 'this PostgreSQL has no pgvector: install it on the server (https://github.com/pgvector/pgvector)';
        END IF;
        BEGIN
            -- Where others look for it, if it may be put there: several archives of one database share it.
            EXECUTE format('CREATE EXTENSION vector SCHEMA %I', CASE
                WHEN to_regnamespace('public') IS NOT NULL AND has_schema_privilege('public', 'CREATE') THEN 'public'
                ELSE current_schema()
            END);
        EXCEPTION
            WHEN insufficient_privilege THEN
                RETURN 'this role may not create the extension: let the owner of the database run CREATE EXTENSION vector';
            WHEN unique_violation OR duplicate_object THEN
                NULL;  -- Another session was quicker.
        END;
    END IF;
    SELECT * INTO kind FROM embedding_type(dimension);
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON call_embeddings USING hnsw ((embedding::%s) %s) WHERE model = %L',
        semantic_index_name(model, dimension), kind.vector_type, kind.operators, model
    );
    RETURN NULL;
END $$;

-- The name of a model's index.
CREATE FUNCTION semantic_index_name(model text, dimension integer) RETURNS name
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN format('call_embeddings_%s_%s_hnsw', left(md5(model), 8), dimension)::name;

-- Delete what calls were embedded into with a model, and its index; how many parts, or null if nobody knows the model.
CREATE FUNCTION forget_embedding_model(forgotten text) RETURNS bigint
    LANGUAGE plpgsql SET search_path FROM CURRENT
    AS $$
DECLARE
    of_dimension integer;
    parts bigint;
BEGIN
    DELETE FROM embedding_models AS known WHERE known.model = forgotten RETURNING known.dimension INTO of_dimension;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM call_embeddings AS kept WHERE kept.model = forgotten;
    GET DIAGNOSTICS parts = ROW_COUNT;
    EXECUTE format('DROP INDEX IF EXISTS %I', semantic_index_name(forgotten, of_dimension));
    RETURN parts;
END $$;

-- Calls that mean something like what the vector `asked` stands for, the nearest first; `distance` is the cosine's, 0 to 2.
CREATE FUNCTION search_calls_by_meaning(
    asked real[],
    embedded_by text,
    tenant text DEFAULT NULL,
    agent text DEFAULT NULL,
    since timestamptz DEFAULT NULL,
    max_results integer DEFAULT 20
)
    RETURNS TABLE (
        session_id uuid, call_sid text, tenant_id text, agent_id text, agent_name text, called_at timestamptz,
        language text, distance double precision, snippet text
    )
    LANGUAGE plpgsql STABLE SET search_path FROM CURRENT
    AS $$
#variable_conflict use_column
DECLARE
    kind record;
BEGIN
    SELECT * INTO kind FROM embedding_type(cardinality(asked));
    IF kind.vector_type IS NULL THEN
        RAISE EXCEPTION 'pgvector is not installed in this database' USING ERRCODE = 'feature_not_supported';
    END IF;
    -- A filter must not empty the index's first answer: pgvector goes on looking since 0.8.
    IF EXISTS (
        SELECT FROM pg_extension
        WHERE extname = 'vector' AND string_to_array(extversion, '.')::integer[] >= ARRAY[0, 8]
    ) THEN
        PERFORM set_config('hnsw.iterative_scan', 'strict_order', true);
    END IF;
    RETURN QUERY EXECUTE format(
        $query$
        WITH near AS (
            SELECT part.session_id AS id, part.first_character, part.characters,
                part.embedding::%1$s %2$s $1::%1$s AS distance
            FROM call_embeddings AS part
            WHERE part.model = %3$L AND part.session_id >= session_id_floor(coalesce($2, '-infinity')) %4$s
            ORDER BY part.embedding::%1$s %2$s $1::%1$s
            LIMIT $5 * 5
        ), nearest AS (
            SELECT DISTINCT ON (near.id) near.* FROM near ORDER BY near.id, near.distance
        )
        SELECT call.id, call.call_sid, call.tenant_id, call.agent_id, call.agent_name,
            coalesce(call.started_at, session_time(call.id)), text.language, nearest.distance::double precision,
            substr(text.transcript_text, nearest.first_character, least(nearest.characters, 300))
        FROM nearest
        JOIN call_sessions AS call ON call.id = nearest.id
        JOIN call_transcripts AS text ON text.session_id = nearest.id
        ORDER BY nearest.distance, call.id DESC
        LIMIT $5
        $query$, kind.vector_type, kind.distance, embedded_by,
        -- Only what is asked for: another table in the query could make the planner sort instead of asking the index.
        concat_ws(' ',
            CASE WHEN tenant IS NOT NULL THEN 'AND part.tenant_id = $3' END,
            CASE WHEN agent IS NOT NULL THEN 'AND EXISTS (SELECT FROM call_sessions AS call WHERE call.id = '
                'part.session_id AND (call.agent_id = $4 OR call.agent_name = $4))' END)
    ) USING asked, since, tenant, agent, max_results;
END $$;
