INSERT INTO {schema}.waitpoints (id, status, timeout_at, tags)
VALUES (%(id)s, 'waiting', now() + %(timeout_ms)s * interval '1 ms', %(tags)s::text[])
RETURNING id, status, output::text, error, timeout_at, created_at, completed_at, tags, job_id
