-- Cancel what has not begun; ask the workers where it runs. A failed job counts while a retry is due.
-- %(statuses)s: only what is in one of these states. %(by)s: whose wish it is, for the events.
WITH {chosen}, done AS (
    UPDATE {schema}.job_queue SET
        status = CASE status WHEN 'processing' THEN status ELSE 'cancelled' END,
        cancel_requested_at = CASE status WHEN 'processing' THEN COALESCE(cancel_requested_at, now()) END,
        last_cancelled_at = CASE status WHEN 'processing' THEN last_cancelled_at ELSE now() END,
        next_attempt_at = NULL, wait_until = NULL, wait_token_id = NULL, due = FALSE, updated_at = now(),
        run_at = COALESCE(scheduled_at, run_at), scheduled_at = NULL, parked = FALSE,
        blocked = blocked AND status <> 'waiting',
        output = CASE status WHEN 'processing' THEN output END
    WHERE id = ANY (ARRAY(SELECT id FROM chosen)) AND status = ANY (%(statuses)s::text[])
      AND (status IN ('pending', 'waiting')
           OR (status = 'failed' AND next_attempt_at IS NOT NULL)
           OR (status = 'processing' AND lease_id IS NOT NULL))
    RETURNING id, status, group_id, has_dependants, has_steps
), leaving AS MATERIALIZED (
    SELECT id FROM done JOIN known USING (id) WHERE known.status = 'waiting' AND done.status = 'cancelled' AND has_steps
), {left_waits}, logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, CASE done.status WHEN 'cancelled' THEN 'cancelled' ELSE 'cancel_requested' END,
           CASE WHEN %(by)s::text IS NOT NULL THEN jsonb_build_object('by', %(by)s::text) END
    FROM done JOIN known USING (id) WHERE done.status = 'cancelled' OR known.cancel_requested_at IS NULL
    ORDER BY id
), told AS MATERIALIZED (
    -- A message holds 8,000 bytes; without ids it says: look at everything.
    SELECT pg_notify('{channel}', topic || CASE WHEN length(ids) < 7000 THEN ids ELSE '' END)
    FROM (SELECT CASE status WHEN 'cancelled' THEN 'finished' ELSE 'cancel' END AS topic,
                 string_agg(' ' || id, '') AS ids
          FROM done GROUP BY status) topics
)
SELECT known.id,
       CASE WHEN done.status = 'cancelled' THEN 'changed' WHEN done.id IS NOT NULL THEN 'requested'
            WHEN chosen.id IS NOT NULL THEN 'unchanged' END,
       done.group_id IS NOT NULL AND done.status = 'cancelled',
       (SELECT count(*) FROM told),
       (SELECT {schema}.dataqueue_resolve(array_agg(id ORDER BY id)) FROM done
        WHERE has_dependants AND status = 'cancelled' HAVING count(*) > 0)
FROM known LEFT JOIN chosen USING (id) LEFT JOIN done USING (id)
