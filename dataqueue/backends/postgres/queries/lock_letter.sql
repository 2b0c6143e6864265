-- A dead letter and the job that it tells of, locked, as far as they are there.
SELECT id, status, next_attempt_at IS NULL, COALESCE(pending_reason, ''), dead_letter_job_id FROM {schema}.job_queue
WHERE id IN (%(letter)s, %(source)s) ORDER BY id FOR NO KEY UPDATE
