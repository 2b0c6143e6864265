-- Tokens of no job that are over since long. Those of a job go with it.
DELETE FROM {schema}.waitpoints WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.waitpoints
    WHERE job_id IS NULL AND status <> 'waiting' AND COALESCE(completed_at, timeout_at, created_at) <= %(before)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
