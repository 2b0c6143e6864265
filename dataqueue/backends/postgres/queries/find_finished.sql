-- Which of these jobs exist, and whether nothing more will happen to them.
SELECT id, status IN ('completed', 'cancelled') OR (status = 'failed' AND next_attempt_at IS NULL)
FROM {schema}.job_queue WHERE id = ANY (%(ids)s::bigint[])
