-- Mark what has fallen due as such, and say in how many milliseconds the next one does.
WITH promoted AS (
    UPDATE {schema}.job_queue SET due = TRUE
    WHERE id = ANY (ARRAY(
        SELECT id FROM {schema}.job_queue
        WHERE ready_at IS NOT NULL AND NOT due AND NOT parked AND NOT blocked AND ready_at <= now()
        ORDER BY ready_at LIMIT 1000 FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT (SELECT count(*) FROM promoted),
       (SELECT extract(epoch FROM ready_at - now())::float8 * 1000 FROM {schema}.job_queue
        WHERE ready_at IS NOT NULL AND NOT due AND NOT parked AND NOT blocked AND ready_at > now() ORDER BY ready_at LIMIT 1)
