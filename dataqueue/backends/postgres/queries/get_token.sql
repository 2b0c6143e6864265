SELECT id, status, output::text, error, timeout_at, created_at, completed_at, tags, job_id
FROM {schema}.waitpoints WHERE id = %(id)s
