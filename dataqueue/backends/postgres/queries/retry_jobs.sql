-- Run again, now, by a person's wish: at least one more attempt is granted. Each goes to the end of the line, as if
-- added now, or waits for the jobs that it named. %(statuses)s: what is in one of these states; %(ended)s: without failed ones that are tried again by
-- themselves. %(by)s: whose wish, for the events.
WITH {chosen}, done AS (
    UPDATE {schema}.job_queue SET
        status = 'pending', run_at = now(), scheduled_at = NULL, parked = FALSE,
        blocked = depends_on IS NOT NULL OR depends_on_tags IS NOT NULL,
        due = depends_on IS NULL AND depends_on_tags IS NULL,
        max_attempts = GREATEST(max_attempts, attempts + 1),
        next_attempt_at = NULL, failure_reason = NULL, completed_at = NULL, output = NULL, progress = NULL,
        pending_reason = NULL, last_retried_at = now(), updated_at = now()
    WHERE id = ANY (ARRAY(SELECT id FROM chosen)) AND status = ANY (%(statuses)s::text[])
      AND status IN ('failed', 'cancelled', 'completed')
      AND NOT (%(ended)s AND status = 'failed' AND next_attempt_at IS NOT NULL)
    RETURNING id, blocked
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'retried', CASE WHEN %(by)s::text IS NOT NULL THEN jsonb_build_object('by', %(by)s::text) END
    FROM done ORDER BY id
)
SELECT known.id, CASE WHEN done.id IS NOT NULL THEN 'changed' WHEN chosen.id IS NOT NULL THEN 'unchanged' END, FALSE,
       (SELECT pg_notify('{channel}', 'work') WHERE EXISTS (SELECT FROM done)),
       (SELECT {schema}.dataqueue_depend(array_agg(id), TRUE) FROM done WHERE blocked HAVING count(*) > 0)
FROM known LEFT JOIN chosen USING (id) LEFT JOIN done USING (id)
