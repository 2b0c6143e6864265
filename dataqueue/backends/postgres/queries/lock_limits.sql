-- Before claim_limited.sql, in its transaction: lock the groups among the best candidates and the limited types, never
-- waiting, and note which were got. What these locks guard is counted by the next statement, whose snapshot is younger
-- than the locks: so the counts are exact. What another claim has in hand is left to it.
WITH candidates AS MATERIALIZED (
    SELECT x.group_id
    FROM unnest(%(job_types)s::varchar[]) AS wanted (job_type)
    CROSS JOIN LATERAL (
        SELECT q.group_id, q.priority, q.ready_at, q.id FROM {schema}.job_queue q
        WHERE q.job_type = wanted.job_type AND q.due AND q.ready_at IS NOT NULL AND q.ready_at <= now()
        ORDER BY q.priority DESC, q.ready_at, q.id
        LIMIT {each}
    ) x
    ORDER BY x.priority DESC, x.ready_at, x.id
    LIMIT {all}
), grouped AS MATERIALIZED (
    SELECT DISTINCT group_id FROM candidates WHERE group_id IS NOT NULL
), limited AS MATERIALIZED (
    SELECT job_type FROM {schema}.dataqueue_limits
    WHERE job_type = ANY (%(job_types)s::varchar[]) AND (max_concurrency IS NOT NULL OR rate_count IS NOT NULL)
    FOR UPDATE SKIP LOCKED
)
SELECT set_config('dataqueue.groups', COALESCE((
           SELECT json_agg(group_id)::text FROM grouped
           WHERE pg_try_advisory_xact_lock(hashtextextended('{channel} ' || group_id, 0))), '[]'), true),
       set_config('dataqueue.types', COALESCE((SELECT json_agg(job_type)::text FROM limited), '[]'), true)
