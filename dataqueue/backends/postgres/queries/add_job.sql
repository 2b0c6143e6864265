-- One job and its event. Only a sleeping worker that would wake too late is notified: a NOTIFY
-- serialises commits, and a busy worker finds the job by itself.
WITH new AS (
    INSERT INTO {schema}.job_queue (job_type, payload, priority, run_at, due, max_attempts, timeout_ms, tags,
                                    retry_delay, retry_backoff, retry_delay_max, group_id, dead_letter_job_type)
    SELECT %(job_type)s, %(payload)s::jsonb, %(priority)s, moment, moment <= now(), %(max_attempts)s,
           %(timeout_ms)s, %(tags)s::text[], %(retry_delay)s, %(retry_backoff)s, %(retry_delay_max)s, %(group)s, %(dead_letter)s
    FROM (SELECT COALESCE(%(run_at)s::timestamptz, now() + %(delay_ms)s * interval '1 ms') AS moment) m
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
