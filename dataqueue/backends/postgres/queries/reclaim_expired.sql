-- Take jobs back from workers whose lease is over. The attempt counts; the last one fails the job. A job that
-- was claimed after that is left for one lease more: its worker was frozen and is about to renew its own.
WITH stuck AS MATERIALIZED (
    SELECT j.id, j.locked_by FROM {schema}.job_queue j
    WHERE j.status = 'processing' AND j.lease_id IS NOT NULL
      AND NOT EXISTS (SELECT FROM {schema}.dataqueue_workers w
                      WHERE w.id = j.locked_by AND (w.lease_expires_at >= now()
                          OR (j.locked_at > w.lease_expires_at
                              AND j.locked_at > now() - (w.lease_expires_at - w.last_heartbeat_at))))
    ORDER BY j.id LIMIT %(limit)s FOR UPDATE OF j SKIP LOCKED
), done AS (
    UPDATE {schema}.job_queue j SET
        status = CASE WHEN j.cancel_requested_at IS NOT NULL THEN 'cancelled'
                      WHEN j.attempts < j.max_attempts THEN 'pending' ELSE 'failed' END,
        due = j.cancel_requested_at IS NULL AND j.attempts < j.max_attempts,
        updated_at = now(), next_attempt_at = NULL, output = NULL,
        last_cancelled_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN now() ELSE j.last_cancelled_at END,
        last_failed_at = CASE WHEN j.cancel_requested_at IS NULL AND j.attempts >= j.max_attempts
                              THEN now() ELSE j.last_failed_at END,
        failure_reason = CASE WHEN j.cancel_requested_at IS NULL AND j.attempts >= j.max_attempts
                              THEN 'worker_lost' ELSE j.failure_reason END,
        dead_lettered_at = CASE WHEN j.cancel_requested_at IS NULL AND j.attempts >= j.max_attempts AND j.dead_letter_job_type <> ''
                                THEN now() ELSE j.dead_lettered_at END,
        dead_letter_job_id = CASE WHEN j.cancel_requested_at IS NULL AND j.attempts >= j.max_attempts AND j.dead_letter_job_type <> ''
                                  THEN nextval('{schema}.job_queue_id_seq') ELSE j.dead_letter_job_id END,
        error_history = COALESCE(j.error_history, '[]'::jsonb) || jsonb_build_array(jsonb_build_object(
            'message', 'Worker ' || COALESCE(j.locked_by, '(unknown)') || ' was lost during attempt ' || j.attempts,
            'timestamp', to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))),
        lease_id = NULL, locked_at = NULL, locked_by = NULL, cancel_requested_at = NULL
    FROM stuck WHERE j.id = stuck.id AND j.lease_id IS NOT NULL
    RETURNING j.id, j.job_type, COALESCE(stuck.locked_by, '') AS worker, j.status, j.group_id, j.has_dependants,
              j.attempts, j.max_attempts, j.payload, j.dead_letter_job_type, j.dead_letter_job_id,
              j.error_history->-1->>'message' AS message, 'worker_lost' AS reason,
              j.status = 'failed' AND COALESCE(j.dead_letter_job_type, '') <> '' AS is_dead
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, CASE status WHEN 'pending' THEN 'reclaimed' ELSE status END,
           jsonb_build_object('worker', worker)
           || CASE status WHEN 'failed' THEN jsonb_build_object('failureReason', 'worker_lost') ELSE '{}' END
           || CASE WHEN is_dead THEN jsonb_build_object('deadLetterJobId', dead_letter_job_id) ELSE '{}' END
    FROM done
), {buried}
SELECT id, job_type, worker, status,
       CASE WHEN id = (SELECT min(id) FROM done) THEN
           (SELECT count(pg_notify('{channel}', message)) FROM (
                SELECT 'work' AS message WHERE EXISTS (SELECT FROM done WHERE status = 'pending' OR is_dead)
                UNION ALL
                SELECT 'finished ' || string_agg(id::text, ' ') FROM done WHERE status <> 'pending'
                HAVING count(*) > 0) told) END,
       group_id IS NOT NULL,
       CASE WHEN id = (SELECT min(id) FROM done) THEN
           (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants AND status <> 'pending' HAVING count(*) > 0) END
FROM done ORDER BY id
