-- Hand jobs back as if they had not been claimed: the attempt is not counted. One whose cancel was
-- asked for is cancelled instead.
WITH done AS (
    UPDATE {schema}.job_queue j SET
        status = CASE WHEN j.cancel_requested_at IS NULL THEN 'pending' ELSE 'cancelled' END,
        last_cancelled_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN now() ELSE j.last_cancelled_at END,
        due = j.cancel_requested_at IS NULL,
        attempts = GREATEST(j.attempts - 1, 0), updated_at = now(), next_attempt_at = NULL, output = NULL,
        progress = NULL, lease_id = NULL, locked_at = NULL, locked_by = NULL, cancel_requested_at = NULL
    FROM unnest(%(ids)s::bigint[], %(leases)s::bigint[]) AS given (id, lease_id)
    WHERE j.id = given.id AND j.lease_id = given.lease_id
    RETURNING j.id, given.lease_id, j.status, j.has_dependants
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, CASE status WHEN 'pending' THEN 'released' ELSE status END,
           jsonb_build_object('worker', %(worker_id)s::text)
    FROM done
)
SELECT (SELECT array_agg(lease_id) FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants AND status = 'cancelled' HAVING count(*) > 0),
       (SELECT array_agg(lease_id) FROM done WHERE status = 'cancelled'),
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM done)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now()))
