-- Free the idempotency keys of jobs that ended by %(before)s, a page of the keys each time. Returns how many, and after
-- which key to go on (NULL at their end).
-- (No IS NOT NULL beside the comparison: the planner would count the share of rows with a key twice, and sort them all.)
WITH page AS MATERIALIZED (
    SELECT id, idempotency_key,
           (status IN ('completed', 'cancelled') OR (status = 'failed' AND next_attempt_at IS NULL))
           AND COALESCE(CASE status WHEN 'completed' THEN completed_at WHEN 'failed' THEN last_failed_at
                        WHEN 'cancelled' THEN last_cancelled_at END, updated_at) <= %(before)s AS old
    FROM {schema}.job_queue
    WHERE idempotency_key > %(after)s ORDER BY idempotency_key LIMIT 5000
), chosen AS MATERIALIZED (
    SELECT id, idempotency_key FROM page WHERE old ORDER BY idempotency_key LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT j.id FROM {schema}.job_queue j
    WHERE j.id = ANY (ARRAY(SELECT id FROM chosen))
      AND (j.status IN ('completed', 'cancelled') OR (j.status = 'failed' AND j.next_attempt_at IS NULL))
    FOR UPDATE OF j SKIP LOCKED
), done AS (
    UPDATE {schema}.job_queue SET idempotency_key = NULL WHERE id = ANY (ARRAY(SELECT id FROM locked)) RETURNING id
)
SELECT (SELECT count(*) FROM done),
       CASE WHEN (SELECT count(*) FROM page WHERE old) > %(limit)s THEN (SELECT max(idempotency_key) FROM chosen)
            WHEN count(*) = 5000 THEN max(idempotency_key) END
FROM page
