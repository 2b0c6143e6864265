-- Claim jobs of this type (the empty name: of all types) again.
WITH unlimited AS (
    DELETE FROM {schema}.dataqueue_limits
    WHERE job_type = %(job_type)s AND paused_at IS NOT NULL AND max_concurrency IS NULL AND rate_count IS NULL
    RETURNING 1
), limited AS (
    UPDATE {schema}.dataqueue_limits SET paused_at = NULL, paused_by = NULL
    WHERE job_type = %(job_type)s AND paused_at IS NOT NULL AND (max_concurrency IS NOT NULL OR rate_count IS NOT NULL)
    RETURNING 1
)
SELECT 1, (SELECT pg_notify('{channel}', 'work')
           WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now()))
FROM (SELECT FROM unlimited UNION ALL SELECT FROM limited) done
