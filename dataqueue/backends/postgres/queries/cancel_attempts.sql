-- Attempts that ended because a cancel reached their handler.
WITH done AS (
    UPDATE {schema}.job_queue j SET
        status = 'cancelled', last_cancelled_at = now(), updated_at = now(), next_attempt_at = NULL,
        output = NULL, lease_id = NULL, locked_at = NULL, locked_by = NULL, cancel_requested_at = NULL,
        wait_until = NULL, wait_token_id = NULL
    FROM unnest(%(ids)s::bigint[], %(leases)s::bigint[]) AS given (id, lease_id)
    WHERE j.id = given.id AND j.lease_id = given.lease_id
    RETURNING j.id, given.lease_id, j.has_dependants
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type) SELECT id, 'cancelled' FROM done
)
SELECT (SELECT array_agg(lease_id) FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants HAVING count(*) > 0),
       NULL, -- none is cancelled instead
       (SELECT pg_notify('{channel}', 'finished ' || (SELECT string_agg(id::text, ' ') FROM done))
        WHERE EXISTS (SELECT FROM done)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'finished' AND until > now()))
