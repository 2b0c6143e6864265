-- Part of the statements that fail attempts: a job that has failed for good goes on as a dead letter, if it names a type
-- for that. Its id was drawn when the failed job was marked.
buried AS (
    INSERT INTO {schema}.job_queue (id, job_type, payload, max_attempts, run_at, due)
    SELECT dead_letter_job_id, dead_letter_job_type, jsonb_build_object(
               'originalJob', jsonb_build_object('id', id, 'jobType', job_type, 'attempts', attempts, 'maxAttempts', max_attempts),
               'originalPayload', payload,
               'failure', jsonb_build_object('message', message, 'reason', reason,
                   'failedAt', to_char(now() AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))),
           1, now(), TRUE
    FROM done WHERE is_dead
), told_of_dead AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT dead_letter_job_id, 'added',
           jsonb_build_object('jobType', dead_letter_job_type, 'sourceJobId', id, 'sourceJobType', job_type)
    FROM done WHERE is_dead
)
