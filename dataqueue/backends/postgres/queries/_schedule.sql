-- Part of the statements that read schedules.
id, schedule_name, cron_expression, timezone, job_type, payload::text, status, allow_overlap, missed, catch_up_limit, priority,
max_attempts, timeout_ms, tags, retry_delay, retry_backoff, retry_delay_max, dead_letter_job_type, group_id, next_run_at,
last_enqueued_at, last_job_id, last_skipped_at, last_skip_reason, problem, declared_at, created_at, updated_at
