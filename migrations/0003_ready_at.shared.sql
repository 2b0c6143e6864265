-- run: repeat
-- Rows from before the trigger: it computes ready_at on this write. Small batches, no long lock.
UPDATE {schema}.job_queue SET updated_at = updated_at
WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.job_queue
    WHERE ready_at IS NULL
      AND ((status = 'pending' AND attempts < max_attempts AND run_at IS NOT NULL)
        OR (status = 'failed' AND attempts < max_attempts AND next_attempt_at IS NOT NULL)
        OR (status = 'waiting' AND wait_token_id IS NULL AND wait_until IS NOT NULL))
    ORDER BY id LIMIT 5000 FOR UPDATE SKIP LOCKED));
