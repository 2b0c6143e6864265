-- The answer to a token, if it is the first one. Its time may be over without anybody having said so yet.
WITH done AS (
    UPDATE {schema}.waitpoints SET
        status = CASE WHEN timeout_at <= now() THEN 'timed_out' WHEN %(error)s::text IS NULL THEN 'completed' ELSE 'failed' END,
        output = CASE WHEN timeout_at <= now() THEN NULL ELSE %(output)s::jsonb END,
        error = CASE WHEN timeout_at <= now() THEN NULL ELSE %(error)s::text END, completed_at = now()
    WHERE id = %(id)s AND status = 'waiting'
    RETURNING id, status, output::text, error, timeout_at, created_at, completed_at, tags, job_id
)
SELECT * FROM done
