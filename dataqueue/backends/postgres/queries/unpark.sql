-- For each place that is free in these groups, the best parked job of every type comes back into the line. At its end,
-- so that other groups have their turn; its run_at is kept in scheduled_at meanwhile. After lock_groups.sql or
-- find_parked.sql. %(tell)s: wake sleeping workers in any case.
WITH most AS MATERIALIZED (
    SELECT min(group_concurrency) AS running FROM {schema}.dataqueue_workers
    WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now()
), groups AS MATERIALIZED (
    SELECT g.group_id, GREATEST(0, COALESCE(most.running - (
        SELECT count(*) FROM {schema}.job_queue r
        WHERE r.group_id = g.group_id AND r.status = 'processing'), 500)) AS free
    FROM most CROSS JOIN json_array_elements_text(current_setting('dataqueue.groups')::json) AS g (group_id)
), best AS MATERIALIZED (
    SELECT first.id FROM groups
    CROSS JOIN LATERAL (
        WITH RECURSIVE types AS (
            (SELECT q.job_type FROM {schema}.job_queue q
             WHERE q.parked AND q.group_id = groups.group_id AND groups.free > 0 ORDER BY q.job_type LIMIT 1)
            UNION ALL
            SELECT (SELECT q.job_type FROM {schema}.job_queue q
                    WHERE q.parked AND q.group_id = groups.group_id AND q.job_type > types.job_type
                    ORDER BY q.job_type LIMIT 1)
            FROM types WHERE types.job_type IS NOT NULL
        ) SELECT job_type FROM types WHERE job_type IS NOT NULL
    ) types
    CROSS JOIN LATERAL (
        SELECT q.id FROM {schema}.job_queue q
        WHERE q.parked AND q.group_id = groups.group_id AND q.job_type = types.job_type
        ORDER BY q.priority DESC, q.ready_at, q.id LIMIT groups.free
    ) first
), done AS (
    UPDATE {schema}.job_queue SET
        parked = FALSE, due = TRUE, scheduled_at = CASE status WHEN 'pending' THEN run_at END,
        run_at = CASE status WHEN 'pending' THEN now() ELSE run_at END,
        next_attempt_at = CASE status WHEN 'failed' THEN now() END
    WHERE id = ANY (ARRAY(SELECT id FROM best)) AND parked
    RETURNING 1
)
SELECT (SELECT count(*) FROM done),
       (SELECT pg_notify('{channel}', 'work')
        WHERE (%(tell)s OR EXISTS (SELECT FROM done))
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now()))
