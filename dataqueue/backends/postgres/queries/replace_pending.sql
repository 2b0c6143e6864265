-- A pending job takes payload and time of one that would have been added. Gives nothing if it is not pending any more.
WITH done AS (
    UPDATE {schema}.job_queue SET
        payload = %(payload)s::jsonb, run_at = moment, due = moment <= now() AND NOT blocked, parked = FALSE,
        scheduled_at = NULL, updated_at = now()
    FROM (SELECT COALESCE(%(run_at)s::timestamptz, now() + %(delay_ms)s * interval '1 ms') AS moment) m
    WHERE id = %(id)s AND status = 'pending'
    RETURNING id, run_at
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'edited', jsonb_build_object('payload', %(payload)s::jsonb, 'runAt', run_at) FROM done
)
SELECT id, (SELECT pg_notify('{channel}', 'work')
            WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners
                          WHERE topic = 'work' AND until > now() AND done.run_at < until))
FROM done
