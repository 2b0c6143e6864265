-- Tokens of no job that are over since long. Those of a job go with it.
DELETE FROM {schema}.waitpoints WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.waitpoints
    WHERE job_id IS NULL AND completed_at IS NOT NULL AND completed_at <= %(before)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
