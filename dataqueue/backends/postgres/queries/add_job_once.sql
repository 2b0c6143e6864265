-- One job with an idempotency key and its event, or the job that has the key already. See add_job.sql.
WITH new AS (
    INSERT INTO {schema}.job_queue (job_type, payload, priority, run_at, due, max_attempts, timeout_ms, tags,
                                    idempotency_key, retry_delay, retry_backoff, retry_delay_max, group_id,
                                    dead_letter_job_type)
    SELECT %(job_type)s, %(payload)s::jsonb, %(priority)s, moment, moment <= now(), %(max_attempts)s,
           %(timeout_ms)s, %(tags)s::text[], %(idempotency_key)s, %(retry_delay)s, %(retry_backoff)s,
           %(retry_delay_max)s, %(group)s, %(dead_letter)s
    FROM (SELECT COALESCE(%(run_at)s::timestamptz, now() + %(delay_ms)s * interval '1 ms') AS moment) m
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, run_at
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'added', jsonb_build_object('jobType', %(job_type)s::text) FROM new
)
SELECT id, TRUE,
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners
                      WHERE topic = 'work' AND until > now() AND new.run_at < until))
FROM new
UNION ALL
SELECT id, FALSE, NULL FROM {schema}.job_queue
WHERE idempotency_key = %(idempotency_key)s AND NOT EXISTS (SELECT FROM new)
