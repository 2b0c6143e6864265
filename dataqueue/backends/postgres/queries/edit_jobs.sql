-- Change pending jobs. %(changes)s: a JSON object with the new values, null to clear; what it does not have stays.
-- A job that is moved in time leaves its place in the line, or comes out of its parking. %(by)s: whose wish, for the
-- events.
WITH {chosen}, given AS MATERIALIZED (
    SELECT c, CASE WHEN c ? 'runAt' THEN COALESCE((c->>'runAt')::timestamptz, now())
                   WHEN c ? 'delayMs' THEN now() + (c->>'delayMs')::bigint * interval '1 ms' END AS moment
    FROM (SELECT %(changes)s::jsonb AS c) changes
), done AS (
    UPDATE {schema}.job_queue j SET
        payload = CASE WHEN c ? 'payload' THEN c->'payload' ELSE j.payload END,
        priority = CASE WHEN c ? 'priority' THEN (c->>'priority')::int ELSE j.priority END,
        max_attempts = CASE WHEN c ? 'maxAttempts' THEN GREATEST((c->>'maxAttempts')::int, j.attempts + 1)
                            ELSE j.max_attempts END,
        timeout_ms = CASE WHEN c ? 'timeoutMs' THEN (c->>'timeoutMs')::int ELSE j.timeout_ms END,
        tags = CASE jsonb_typeof(c->'tags') WHEN 'array' THEN ARRAY(SELECT jsonb_array_elements_text(c->'tags'))
                                            WHEN 'null' THEN NULL ELSE j.tags END,
        retry_delay = CASE WHEN c ? 'retryDelay' THEN (c->>'retryDelay')::int ELSE j.retry_delay END,
        retry_backoff = CASE WHEN c ? 'retryBackoff' THEN (c->>'retryBackoff')::boolean ELSE j.retry_backoff END,
        retry_delay_max = CASE WHEN c ? 'retryDelayMax' THEN (c->>'retryDelayMax')::int ELSE j.retry_delay_max END,
        run_at = COALESCE(moment, j.run_at),
        scheduled_at = CASE WHEN moment IS NULL THEN j.scheduled_at END,
        parked = j.parked AND moment IS NULL,
        dead_letter_job_type = CASE WHEN c ? 'deadLetterJobType' THEN c->>'deadLetterJobType' ELSE j.dead_letter_job_type END,
        due = CASE WHEN j.blocked THEN FALSE WHEN moment IS NOT NULL THEN moment <= now()
                   WHEN c ? 'maxAttempts' THEN NOT j.parked AND j.run_at <= now() ELSE j.due END,
        updated_at = now()
    FROM given
    WHERE j.id = ANY (ARRAY(SELECT id FROM chosen)) AND j.status = 'pending'
    RETURNING j.id, j.group_id, j.run_at, moment
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'edited', c || CASE WHEN %(by)s::text IS NULL THEN '{}' ELSE jsonb_build_object('by', %(by)s::text) END
    FROM done CROSS JOIN given ORDER BY id
)
SELECT known.id, CASE WHEN done.id IS NOT NULL THEN 'changed' WHEN chosen.id IS NOT NULL THEN 'unchanged' END,
       done.group_id IS NOT NULL AND done.moment > now(),
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners
                      WHERE topic = 'work' AND until > now() AND (SELECT min(run_at) FROM done) < until))
FROM known LEFT JOIN chosen USING (id) LEFT JOIN done USING (id)
