-- Add the jobs of these fires and advance the schedule: nothing, if another was faster or has the schedule in its hands. No job
-- is added while the last one is unfinished, unless they may overlap.
WITH mine AS (
    SELECT * FROM {schema}.cron_schedules
    WHERE id = %(id)s AND status = 'active' AND next_run_at = %(expected)s
    FOR UPDATE SKIP LOCKED
), busy AS (
    SELECT j.id FROM mine JOIN {schema}.job_queue j ON j.id = mine.last_job_id
    WHERE NOT COALESCE(mine.allow_overlap, FALSE)
      AND (j.status IN ('pending', 'processing', 'waiting') OR (j.status = 'failed' AND j.next_attempt_at IS NOT NULL))
), fires AS MATERIALIZED (
    SELECT nextval('{schema}.job_queue_id_seq') AS job_id, moment
    FROM mine CROSS JOIN unnest(%(fires)s::timestamptz[]) WITH ORDINALITY AS f (moment, n)
    WHERE NOT EXISTS (SELECT FROM busy) ORDER BY n
), new AS (
    INSERT INTO {schema}.job_queue (id, job_type, payload, priority, run_at, due, max_attempts, timeout_ms, tags,
                                    retry_delay, retry_backoff, retry_delay_max, group_id, dead_letter_job_type)
    SELECT fires.job_id, job_type, payload, COALESCE(priority, 0), now(), TRUE, COALESCE(max_attempts, 3), timeout_ms, tags,
           retry_delay, retry_backoff, retry_delay_max, group_id, dead_letter_job_type
    FROM fires CROSS JOIN mine
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT fires.job_id, 'added', jsonb_build_object('jobType', job_type, 'schedule', schedule_name, 'scheduledFor',
               to_char(moment AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'))
    FROM fires CROSS JOIN mine ORDER BY fires.job_id
), summary AS (
    SELECT max(job_id) AS last, COALESCE(array_agg(job_id ORDER BY job_id), '{}') AS ids FROM fires
), advanced AS (
    UPDATE {schema}.cron_schedules s SET
        next_run_at = %(next)s,
        last_enqueued_at = CASE WHEN summary.last IS NULL THEN s.last_enqueued_at ELSE now() END,
        last_job_id = COALESCE(summary.last, s.last_job_id),
        last_skipped_at = CASE WHEN summary.last IS NULL THEN now() ELSE s.last_skipped_at END,
        last_skip_reason = CASE WHEN summary.last IS NOT NULL THEN s.last_skip_reason
                                WHEN EXISTS (SELECT FROM busy) THEN 'overlap' ELSE 'missed' END,
        problem = NULL, updated_at = now()
    FROM mine CROSS JOIN summary WHERE s.id = mine.id
    RETURNING s.id
)
SELECT summary.ids,
       (SELECT pg_notify('{channel}', 'work')
        WHERE summary.last IS NOT NULL
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now()))
FROM advanced CROSS JOIN summary
