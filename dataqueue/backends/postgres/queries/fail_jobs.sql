-- Failed attempts: put off for a retry, or failed for good where retry_ms is null. A job whose cancel
-- was asked for is not tried again.
WITH done AS (
    UPDATE {schema}.job_queue j SET
        status = CASE WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled' ELSE 'failed' END,
        last_cancelled_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN now() ELSE j.last_cancelled_at END,
        last_failed_at = now(), updated_at = now(), failure_reason = given.reason,
        error_history = COALESCE(j.error_history, '[]'::jsonb) || jsonb_build_array(jsonb_strip_nulls(
            jsonb_build_object('message', given.message, 'type', given.error_type, 'frame', given.frame,
                'timestamp', to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')))),
        next_attempt_at = CASE WHEN j.cancel_requested_at IS NULL
                               THEN now() + given.retry_ms * interval '1 ms' END,
        dead_lettered_at = CASE WHEN given.retry_ms IS NULL AND j.cancel_requested_at IS NULL AND j.dead_letter_job_type <> ''
                                THEN now() ELSE j.dead_lettered_at END,
        dead_letter_job_id = CASE WHEN given.retry_ms IS NULL AND j.cancel_requested_at IS NULL AND j.dead_letter_job_type <> ''
                                  THEN nextval('{schema}.job_queue_id_seq') ELSE j.dead_letter_job_id END,
        due = COALESCE(given.retry_ms <= 0 AND j.cancel_requested_at IS NULL, FALSE),
        output = NULL, lease_id = NULL, locked_at = NULL, locked_by = NULL, cancel_requested_at = NULL
    FROM unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(messages)s::text[], %(reasons)s::text[],
                %(retries)s::bigint[], %(error_types)s::text[], %(frames)s::text[])
         AS given (id, lease_id, message, reason, retry_ms, error_type, frame)
    WHERE j.id = given.id AND j.lease_id = given.lease_id
    RETURNING j.id, given.lease_id, j.status, j.next_attempt_at, given.message, given.reason, j.has_dependants,
              j.job_type, j.attempts, j.max_attempts, j.payload, j.dead_letter_job_type, j.dead_letter_job_id,
              j.status = 'failed' AND j.next_attempt_at IS NULL AND COALESCE(j.dead_letter_job_type, '') <> '' AS is_dead
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, status, jsonb_build_object('message', message, 'failureReason', reason)
        || CASE WHEN next_attempt_at IS NULL THEN '{}' ELSE jsonb_build_object('nextAttemptAt', next_attempt_at) END
        || CASE WHEN is_dead THEN jsonb_build_object('deadLetterJobId', dead_letter_job_id) ELSE '{}' END
    FROM done
), {buried}
SELECT (SELECT array_agg(lease_id) FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants AND next_attempt_at IS NULL HAVING count(*) > 0),
       (SELECT array_agg(lease_id) FROM done WHERE status = 'cancelled'),
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM done WHERE is_dead)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now())),
       (SELECT pg_notify('{channel}', 'finished ' ||
            (SELECT string_agg(id::text, ' ') FROM done WHERE next_attempt_at IS NULL))
        WHERE EXISTS (SELECT FROM done WHERE next_attempt_at IS NULL)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'finished' AND until > now()))
