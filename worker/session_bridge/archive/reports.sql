-- name: refresh_views
-- Refresh the materialized views, unless another session does it now or did so lately.
SELECT view_name, seconds FROM refresh_archive_views(make_interval(secs => %(older_than)s));

-- name: freshness
-- When each materialized view was refreshed last, and how long that took.
SELECT view_name, refreshed_at, seconds FROM session_bridge_refreshes ORDER BY view_name;

-- name: make_compatibility_views
-- Make the views of older names in a schema of their own.
SELECT make_compatibility_views(%(schema)s);

-- name: drop_compatibility_views
-- Take them away.
SELECT drop_compatibility_views(%(schema)s);

-- name: stats
-- The calls of a time in numbers, by day, hour or agent, and all together in the row whose `bucket` is null.
SELECT CASE WHEN grouping(bucket) = 0 THEN coalesce(bucket, '') END, count(*),
    count(*) FILTER (WHERE status = 'completed'), count(*) FILTER (WHERE status = 'failed'),
    sum(duration_seconds), avg(duration_seconds), avg(avg_user_to_bot_latency_ms),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY avg_user_to_bot_latency_ms),
    sum(total_messages)::bigint, sum(total_interruptions)::bigint, sum(total_llm_tokens)::bigint, sum(total_cost_cents)
FROM (
    SELECT *, CASE %(by)s
        WHEN 'agent' THEN coalesce(agent_name, agent_id)
        WHEN 'hour' THEN to_char(session_time(id) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:00')
        ELSE to_char(session_time(id) AT TIME ZONE 'UTC', 'YYYY-MM-DD')
    END AS bucket
    FROM call_sessions
    WHERE id >= session_id_floor(%(since)s) AND id < session_id_floor(%(until)s)
        AND (%(tenant)s::text IS NULL OR tenant_id = %(tenant)s)
        AND (%(agent)s::text IS NULL OR agent_id = %(agent)s OR agent_name = %(agent)s)
) AS call
GROUP BY GROUPING SETS ((bucket), ())
ORDER BY grouping(bucket), bucket;
