-- The limits of these types, as the worker that starts last knows them; null and null for none.
WITH given AS (
    SELECT * FROM unnest(%(job_types)s::varchar[], %(concurrencies)s::int[], %(counts)s::int[], %(lengths)s::bigint[])
        AS g (job_type, max_concurrency, rate_count, rate_ms)
    ORDER BY g.job_type
), gone AS (
    DELETE FROM {schema}.dataqueue_limits l USING given
    WHERE l.job_type = given.job_type AND given.max_concurrency IS NULL AND given.rate_count IS NULL
      AND l.paused_at IS NULL
)
INSERT INTO {schema}.dataqueue_limits AS l (job_type, max_concurrency, rate_count, rate_ms)
SELECT job_type, max_concurrency, rate_count, rate_ms FROM given
WHERE max_concurrency IS NOT NULL OR rate_count IS NOT NULL
   OR EXISTS (SELECT FROM {schema}.dataqueue_limits o WHERE o.job_type = given.job_type AND o.paused_at IS NOT NULL)
ON CONFLICT (job_type) DO UPDATE SET
    max_concurrency = EXCLUDED.max_concurrency, rate_count = EXCLUDED.rate_count, rate_ms = EXCLUDED.rate_ms
