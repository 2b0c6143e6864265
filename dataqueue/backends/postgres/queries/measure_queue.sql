-- The estimated number of rows, and for how many seconds each type's longest-waiting due job has been due: one
-- index probe for each type and priority in use.
WITH RECURSIVE types AS (
    (SELECT job_type FROM {schema}.job_queue WHERE due AND ready_at IS NOT NULL ORDER BY job_type LIMIT 1)
    UNION ALL
    SELECT (SELECT q.job_type FROM {schema}.job_queue q
            WHERE q.due AND q.ready_at IS NOT NULL AND q.job_type > types.job_type ORDER BY q.job_type LIMIT 1)
    FROM types WHERE types.job_type IS NOT NULL
), oldest AS (
    SELECT types.job_type, first.priority, first.ready_at
    FROM types CROSS JOIN LATERAL (
        SELECT q.priority, q.ready_at FROM {schema}.job_queue q
        WHERE q.job_type = types.job_type AND q.due AND q.ready_at IS NOT NULL
        ORDER BY q.priority DESC, q.ready_at, q.id LIMIT 1) first
    UNION ALL
    SELECT oldest.job_type, following.priority, following.ready_at
    FROM oldest CROSS JOIN LATERAL (
        SELECT q.priority, q.ready_at FROM {schema}.job_queue q
        WHERE q.job_type = oldest.job_type AND q.priority < oldest.priority AND q.due AND q.ready_at IS NOT NULL
        ORDER BY q.priority DESC, q.ready_at, q.id LIMIT 1) following
)
SELECT (SELECT reltuples::bigint FROM pg_class WHERE oid = '{schema}.job_queue'::regclass),
       (SELECT json_object_agg(job_type, waited) FROM (
            SELECT job_type, extract(epoch FROM now() - min(ready_at))::float8 AS waited
            FROM oldest WHERE ready_at <= now() GROUP BY job_type) w)
