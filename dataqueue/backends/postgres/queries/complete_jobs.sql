-- Finish attempts whose lease still holds. The lease alone is the fence: it is cleared at every exit.
-- No predicate on status: it would turn the plan to an index full of dead entries.
WITH done AS (
    UPDATE {schema}.job_queue j SET
        status = 'completed', completed_at = now(), updated_at = now(),
        output = COALESCE(given.output::jsonb, j.output),
        lease_id = NULL, locked_at = NULL, locked_by = NULL, next_attempt_at = NULL, failure_reason = NULL,
        cancel_requested_at = NULL, step_data = NULL, wait_until = NULL, wait_token_id = NULL
    FROM unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(outputs)s::text[]) AS given (id, lease_id, output)
    WHERE j.id = given.id AND j.lease_id = given.lease_id
    RETURNING j.id, given.lease_id, j.has_dependants
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type) SELECT id, 'completed' FROM done
)
SELECT (SELECT array_agg(lease_id) FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants HAVING count(*) > 0),
       NULL, -- none is cancelled instead
       (SELECT pg_notify('{channel}', 'finished ' || (SELECT string_agg(id::text, ' ') FROM done))
        WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'finished' AND until > now()))
