-- Record a step of an attempt whose lease holds; the row lock keeps it so until the end of the statement. %(token)s: a
-- token to be made with it.
WITH held AS MATERIALIZED (
    SELECT id FROM {schema}.job_queue WHERE id = %(id)s AND lease_id = %(lease_id)s FOR NO KEY UPDATE
), marked AS (
    UPDATE {schema}.job_queue SET has_steps = TRUE WHERE id = (SELECT id FROM held) AND NOT has_steps
), made AS (
    INSERT INTO {schema}.waitpoints (id, job_id, status, timeout_at, tags)
    SELECT %(token)s::varchar, id, 'waiting', now() + %(timeout_ms)s * interval '1 ms', %(tags)s::text[]
    FROM held WHERE %(token)s::varchar IS NOT NULL
    ON CONFLICT (id) DO NOTHING -- sent twice
)
INSERT INTO {schema}.dataqueue_steps AS s (job_id, name, seq, kind, result, until, token_id, job_ids, place, attempts, started_at, done_at)
SELECT id, %(name)s, %(seq)s, %(kind)s, %(result)s::jsonb, NULL, %(token_id)s, %(job_ids)s::bigint[], %(place)s, %(attempts)s,
       now() - %(took_ms)s * interval '1 ms', now()
FROM held
ON CONFLICT (job_id, name) DO UPDATE SET result = EXCLUDED.result, done_at = EXCLUDED.done_at
