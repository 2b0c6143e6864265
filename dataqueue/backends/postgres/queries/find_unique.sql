-- For each unique key: the newest job that is unfinished, the newest that is pending, and the newest of all with its age in
-- milliseconds; after lock_unique.sql.
SELECT given.key, unfinished.id, CASE unfinished.status WHEN 'pending' THEN unfinished.id ELSE pending.id END,
       latest.id, extract(epoch FROM now() - latest.created_at)::float8 * 1000
FROM unnest(%(keys)s::text[]) AS given (key)
LEFT JOIN LATERAL (
    SELECT newest.id, state.status FROM unnest(ARRAY['pending', 'processing', 'waiting', 'failed']) AS state (status)
    CROSS JOIN LATERAL (
        SELECT q.id FROM {schema}.job_queue q
        WHERE q.unique_key = given.key AND q.status = state.status AND (q.status <> 'failed' OR q.next_attempt_at IS NOT NULL)
        ORDER BY q.id DESC LIMIT 1) newest
    ORDER BY newest.id DESC LIMIT 1) unfinished ON TRUE
LEFT JOIN LATERAL (
    SELECT q.id FROM {schema}.job_queue q
    WHERE q.unique_key = given.key AND q.status = 'pending' ORDER BY q.id DESC LIMIT 1) pending ON TRUE
LEFT JOIN LATERAL (
    SELECT newest.id, newest.created_at
    FROM unnest(ARRAY['pending', 'processing', 'waiting', 'failed', 'completed', 'cancelled']) AS state (status)
    CROSS JOIN LATERAL (
        SELECT q.id, q.created_at FROM {schema}.job_queue q
        WHERE q.unique_key = given.key AND q.status = state.status ORDER BY q.id DESC LIMIT 1) newest
    ORDER BY newest.id DESC LIMIT 1) latest ON TRUE
