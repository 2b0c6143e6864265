-- After lock_schedule.sql, in its transaction.
WITH done AS (
    UPDATE {schema}.cron_schedules SET
        cron_expression = %(expression)s, timezone = %(timezone)s, job_type = %(job_type)s, payload = %(payload)s::jsonb,
        status = %(status)s, allow_overlap = %(allow_overlap)s, missed = %(missed)s, catch_up_limit = %(catch_up_limit)s,
        priority = %(priority)s, max_attempts = %(max_attempts)s, timeout_ms = %(timeout_ms)s, tags = %(tags)s::text[],
        retry_delay = %(retry_delay)s, retry_backoff = %(retry_backoff)s, retry_delay_max = %(retry_delay_max)s,
        dead_letter_job_type = %(dead_letter)s, group_id = %(group)s, next_run_at = %(next_run_at)s, problem = %(problem)s,
        declared_at = %(declared_at)s, updated_at = now()
    WHERE id = %(id)s
    RETURNING updated_at
)
SELECT updated_at, pg_notify('{channel}', 'schedule') FROM done
