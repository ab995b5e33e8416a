-- name: search_calls
-- Calls by the words of their transcripts.
SELECT call_sid, session_id::text, tenant_id, agent_id, agent_name, called_at, language, rank, snippet
FROM search_calls(%(query)s, %(tenant)s, %(agent)s, %(since)s, %(limit)s, mark => %(mark)s, unmark => %(unmark)s);

-- name: search_messages
-- Messages by their words.
SELECT call_sid, session_id::text, tenant_id, agent_id, agent_name, called_at, language, rank, snippet,
    sequence, speaker, said_at
FROM search_messages(
    %(query)s, %(tenant)s, %(agent)s, %(since)s, %(speaker)s, %(limit)s, mark => %(mark)s, unmark => %(unmark)s);

-- name: search_chunks
-- Texts of the knowledge base by their words, with calls that retrieved them.
SELECT call_sid, session_id::text, tenant_id, agent_id, agent_name, called_at, language, rank, snippet,
    chunk_rank, filename, NULL
FROM search_chunks(%(query)s, %(tenant)s, %(agent)s, %(since)s, %(limit)s, mark => %(mark)s, unmark => %(unmark)s);

-- name: search_by_meaning
-- Calls by the meaning of what was said.
SELECT call_sid, session_id::text, tenant_id, agent_id, agent_name, called_at, language, 1 - distance, snippet
FROM search_calls_by_meaning(
    %(asked)s::real[], %(model)s, %(tenant)s, %(agent)s, %(since)s, %(limit)s);

-- name: prepare_semantic_search
-- What is missing for a search by meaning, once all that can be made is made.
SELECT prepare_semantic_search(%(model)s, %(dimension)s);

-- name: enter_model
-- A model is used for the first time.
INSERT INTO embedding_models (model) VALUES (%(model)s) ON CONFLICT DO NOTHING;

-- name: lease_model
-- Take a model's work for a while, unless somebody has it.
UPDATE embedding_models
SET lease = %(lease)s, leased_until = now() + make_interval(secs => %(seconds)s), last_used_at = now()
WHERE model = %(model)s AND (leased_until IS NULL OR leased_until < now() OR lease = %(lease)s)
RETURNING nullif(archived_through, '-infinity'), session_through::text, now();

-- name: archived_since
-- The next calls, in the order in which they were archived, that have a text this model has not embedded.
SELECT page.id::text, page.archived_at, text.transcript_text, text.tenant_id, md5(text.transcript_text)
FROM (
    SELECT id, archived_at FROM call_sessions
    WHERE (archived_at, id) > (coalesce(%(archived_through)s, '-infinity'::timestamptz), %(session_through)s::uuid)
    ORDER BY archived_at, id
    LIMIT %(limit)s
) AS page
LEFT JOIN LATERAL (
    SELECT transcript.tenant_id, transcript.transcript_text FROM call_transcripts AS transcript
    WHERE transcript.session_id = page.id AND transcript.transcript_text <> '' AND NOT EXISTS (
        SELECT FROM call_embeddings AS done
        WHERE done.session_id = page.id AND done.model = %(model)s AND done.part = 1
            AND done.text_digest = md5(transcript.transcript_text))
) AS text ON true
ORDER BY page.archived_at, page.id;

-- name: forget_embeddings
-- What these calls were embedded into before their text changed.
DELETE FROM call_embeddings WHERE session_id = ANY(%(session_ids)s::uuid[]) AND model = %(model)s;

-- name: keep_embeddings
-- The parts of calls, embedded. A call that was erased since is left out.
INSERT INTO call_embeddings (
    session_id, model, part, tenant_id, dimension, first_character, characters, text_digest, embedding)
SELECT call.id, %(model)s, new.part, call.tenant_id, %(dimension)s, new.first_character, new.characters,
    new.text_digest, new.embedding::real[]
FROM unnest(
    %(session_id)s::uuid[], %(part)s::int[], %(first_character)s::int[], %(characters)s::int[],
    %(text_digest)s::text[], %(embedding)s::text[])
    AS new (session_id, part, first_character, characters, text_digest, embedding)
JOIN call_sessions AS call ON call.id = new.session_id
ON CONFLICT (session_id, model, part) DO NOTHING;

-- name: advance_model
-- How far a model has come; nothing, if somebody else has its work by now.
UPDATE embedding_models
SET archived_through = coalesce(%(archived_through)s, '-infinity'::timestamptz), session_through = %(session_through)s,
    dimension = coalesce(%(dimension)s, dimension),
    leased_until = CASE WHEN %(done)s THEN NULL ELSE leased_until END
WHERE model = %(model)s AND lease = %(lease)s
RETURNING model;

-- name: give_model_back
-- Somebody else may do a model's work now.
UPDATE embedding_models SET leased_until = NULL WHERE model = %(model)s AND lease = %(lease)s;

-- name: known_models
-- The models that calls were embedded with, the one used last first.
SELECT model, dimension, nullif(archived_through, '-infinity'), first_used_at, last_used_at
FROM embedding_models ORDER BY last_used_at DESC NULLS LAST, model;

-- name: forget_model
-- A model is used no more: how many parts it had, or null if nobody knows it.
SELECT forget_embedding_model(%(model)s);
