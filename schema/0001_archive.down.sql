-- Takes the archive away, with every call in it.
DROP VIEW call_rag_chunk_texts;
DROP FUNCTION session_id_of(text);
DROP FUNCTION session_month(uuid);
DROP FUNCTION session_id_floor(timestamptz);
DROP TABLE
    dead_session_fields,
    dead_sessions,
    call_session_rejects,
    call_journal,
    rag_chunk_contents,
    call_events,
    call_analysis,
    call_cost_breakdowns,
    call_recordings,
    call_cost_events,
    call_participants,
    call_tool_calls,
    call_user_interruptions,
    call_extracted_variables,
    call_rag_chunks,
    call_rag_retrievals,
    call_metrics,
    call_transitions,
    call_messages,
    call_transcripts,
    call_sessions,
    call_sids,
    session_bridge_archive;
