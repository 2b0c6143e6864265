-- Cancel what has not begun; ask the worker where it runs. A failed job counts while a retry is due.
-- %(by)s: whose wish it is, for the event.
WITH before AS (
    SELECT id, cancel_requested_at FROM {schema}.job_queue WHERE id = %(id)s
), done AS (
    UPDATE {schema}.job_queue SET
        status = CASE status WHEN 'processing' THEN status ELSE 'cancelled' END,
        cancel_requested_at = CASE status WHEN 'processing' THEN COALESCE(cancel_requested_at, now()) END,
        last_cancelled_at = CASE status WHEN 'processing' THEN last_cancelled_at ELSE now() END,
        next_attempt_at = NULL, wait_until = NULL, wait_token_id = NULL, due = FALSE, updated_at = now(),
        run_at = COALESCE(scheduled_at, run_at), scheduled_at = NULL, parked = FALSE
    WHERE id = %(id)s
      AND (status IN ('pending', 'waiting')
           OR (status = 'failed' AND next_attempt_at IS NOT NULL)
           OR (status = 'processing' AND lease_id IS NOT NULL))
    RETURNING id, status, group_id, has_dependants
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, CASE done.status WHEN 'cancelled' THEN 'cancelled' ELSE 'cancel_requested' END,
           CASE WHEN %(by)s::text IS NOT NULL THEN jsonb_build_object('by', %(by)s::text) END
    FROM done JOIN before USING (id) WHERE done.status = 'cancelled' OR before.cancel_requested_at IS NULL
)
SELECT (SELECT status FROM done), EXISTS (SELECT FROM {schema}.job_queue WHERE id = %(id)s),
       (SELECT pg_notify('{channel}', CASE status WHEN 'cancelled' THEN 'finished ' ELSE 'cancel ' END || id)
        FROM done),
       (SELECT group_id IS NOT NULL AND status = 'cancelled' FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants AND status = 'cancelled' HAVING count(*) > 0)
