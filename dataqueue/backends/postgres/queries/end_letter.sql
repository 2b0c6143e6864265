-- A dead letter whose job runs again: it is settled, and if nobody has handled it, nobody needs to. %(by)s: whose wish.
WITH done AS (
    UPDATE {schema}.job_queue SET
        status = CASE WHEN unfinished THEN 'cancelled' ELSE status END,
        last_cancelled_at = CASE WHEN unfinished THEN now() ELSE last_cancelled_at END,
        next_attempt_at = NULL, wait_until = NULL, wait_token_id = NULL, due = FALSE, parked = FALSE, updated_at = now(),
        blocked = blocked AND NOT waits, output = CASE WHEN NOT waits THEN output END,
        pending_reason = format('{"redrivenTo":%%s}', %(job)s::bigint)
    FROM (SELECT status IN ('pending', 'waiting') OR next_attempt_at IS NOT NULL AS unfinished, status = 'waiting' AS waits FROM {schema}.job_queue
          WHERE id = %(letter)s) was
    WHERE id = %(letter)s
    RETURNING id, has_dependants, waits AND has_steps AS leaves
), leaving AS MATERIALIZED (
    SELECT id FROM done WHERE leaves
), {left_waits}, logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'redriven', jsonb_strip_nulls(jsonb_build_object('jobId', %(job)s::bigint, 'by', %(by)s::text)) FROM done
)
SELECT id, (SELECT pg_notify('{channel}', 'finished ' || id)),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants HAVING count(*) > 0)
FROM done
