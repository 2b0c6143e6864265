-- Every type that is limited or paused, and what it uses of its limits.
SELECT l.job_type, l.paused_at, l.paused_by, l.max_concurrency, l.rate_count, l.rate_ms,
       CASE WHEN l.max_concurrency IS NOT NULL THEN
           (SELECT count(*) FROM {schema}.job_queue r WHERE r.status = 'processing' AND r.job_type = l.job_type) END,
       started.count, started.opens_at
FROM {schema}.dataqueue_limits l
LEFT JOIN LATERAL (
    SELECT COALESCE(sum((start->>1)::int), 0) AS count,
           to_timestamp((min((start->>0)::float8) + l.rate_ms) / 1000) AS opens_at
    FROM jsonb_array_elements(l.starts) start
    WHERE (start->>0)::float8 > extract(epoch FROM now()) * 1000 - l.rate_ms
) started ON l.rate_count IS NOT NULL
ORDER BY l.job_type
