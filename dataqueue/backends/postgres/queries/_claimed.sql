-- Part of the two claims: what happens to the jobs that were picked.
claimed AS (
    UPDATE {schema}.job_queue SET
        status = 'processing',
        lease_id = nextval('{schema}.dataqueue_lease_seq'),
        locked_at = now(), locked_by = %(worker_id)s, updated_at = now(),
        started_at = COALESCE(started_at, now()),
        last_retried_at = CASE WHEN attempts > 0 AND status <> 'waiting' THEN now() ELSE last_retried_at END,
        attempts = attempts + CASE WHEN status = 'waiting' THEN 0 ELSE 1 END,
        run_at = COALESCE(scheduled_at, run_at), scheduled_at = NULL,
        due = FALSE, next_attempt_at = NULL, pending_reason = NULL, cancel_requested_at = NULL,
        progress = CASE WHEN status = 'waiting' THEN progress END, output = CASE WHEN status = 'waiting' THEN output END,
        wait_until = NULL, wait_token_id = NULL
    WHERE id = ANY (ARRAY(SELECT id FROM picked))
    RETURNING id, lease_id, job_type, payload::text AS payload, attempts, max_attempts, priority,
              timeout_ms, retry_delay, retry_backoff, retry_delay_max, tags, created_at, run_at, group_id, has_steps
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'processing', jsonb_build_object('worker', %(worker_id)s::text) FROM claimed
)
