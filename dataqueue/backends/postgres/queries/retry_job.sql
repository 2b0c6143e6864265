-- Run again, now, by a person's wish: at least one more attempt is granted. It
-- goes to the end of the line, as if added now. %(by)s: whose wish, for the event.
WITH done AS (
    UPDATE {schema}.job_queue SET
        status = 'pending', run_at = now(), scheduled_at = NULL, parked = FALSE,
        blocked = depends_on IS NOT NULL OR depends_on_tags IS NOT NULL, due = depends_on IS NULL AND depends_on_tags IS NULL,
        max_attempts = GREATEST(max_attempts, attempts + 1),
        next_attempt_at = NULL, failure_reason = NULL, completed_at = NULL, output = NULL, progress = NULL,
        pending_reason = NULL, last_retried_at = now(), updated_at = now()
    WHERE id = %(id)s AND (status IN ('failed', 'cancelled') OR (%(force)s AND status = 'completed'))
    RETURNING id, blocked
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'retried', CASE WHEN %(by)s::text IS NOT NULL THEN jsonb_build_object('by', %(by)s::text) END FROM done
)
SELECT (SELECT id FROM done), EXISTS (SELECT FROM {schema}.job_queue WHERE id = %(id)s),
       (SELECT pg_notify('{channel}', 'work') FROM done),
       (SELECT {schema}.dataqueue_depend(array_agg(id), TRUE) FROM done WHERE blocked HAVING count(*) > 0)
