-- No row if the name is taken. Whoever waits for the next fire is woken.
WITH new AS (
    INSERT INTO {schema}.cron_schedules (schedule_name, cron_expression, timezone, job_type, payload, status, allow_overlap, missed,
        catch_up_limit, priority, max_attempts, timeout_ms, tags, retry_delay, retry_backoff, retry_delay_max,
        dead_letter_job_type, group_id, next_run_at, declared_at)
    VALUES (%(name)s, %(expression)s, %(timezone)s, %(job_type)s, %(payload)s::jsonb, %(status)s, %(allow_overlap)s, %(missed)s,
        %(catch_up_limit)s, %(priority)s, %(max_attempts)s, %(timeout_ms)s, %(tags)s::text[], %(retry_delay)s, %(retry_backoff)s,
        %(retry_delay_max)s, %(dead_letter)s, %(group)s, %(next_run_at)s, %(declared_at)s)
    ON CONFLICT (schedule_name) DO NOTHING
    RETURNING id
)
SELECT id, pg_notify('{channel}', 'schedule') FROM new
