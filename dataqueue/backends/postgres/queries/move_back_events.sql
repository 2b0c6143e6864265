-- For dataqueue.testing.advance_clock: the moments that events tell of.
UPDATE {schema}.job_events SET metadata = metadata || (
    SELECT jsonb_object_agg(key, value::timestamptz - %(by)s)
    FROM jsonb_each_text(metadata) WHERE key IN ('nextAttemptAt', 'until', 'waitUntil') AND value IS NOT NULL)
WHERE jsonb_typeof(metadata) = 'object'
  AND COALESCE(metadata->>'nextAttemptAt', metadata->>'until', metadata->>'waitUntil') IS NOT NULL
