-- Attempts whose handler waits: for a time, a token or other jobs. The wait is recorded with it, or stands already. One whose
-- cancel was asked for is cancelled instead; one whose wait is over goes on at once. The tokens are locked first, as by
-- end_token.sql, so that either this sees the answer or the answer finds this.
WITH given AS MATERIALIZED (
    SELECT g.*, COALESCE(g.until, now() + g.delay_ms * interval '1 ms') AS moment
    FROM json_to_recordset(%(waits)s::json) AS g (
        id bigint, lease_id bigint, name text, seq int, kind text, until timestamptz, delay_ms bigint, token_id text,
        job_ids bigint[], place text)
), tokens AS MATERIALIZED (
    SELECT w.id, w.status FROM {schema}.waitpoints w
    WHERE w.id IN (SELECT token_id FROM given) ORDER BY w.id FOR UPDATE
), awaited AS MATERIALIZED (
    SELECT DISTINCT given.id AS dependent_id, p.id AS prerequisite_id
    FROM given CROSS JOIN LATERAL unnest(given.job_ids) AS named (id) JOIN {schema}.job_queue p ON p.id = named.id
    WHERE given.kind = 'jobs'
      AND NOT (p.status IN ('completed', 'cancelled') OR (p.status = 'failed' AND p.next_attempt_at IS NULL))
), planned AS MATERIALIZED (
    SELECT given.*, CASE given.kind
        WHEN 'token' THEN NOT EXISTS (SELECT FROM tokens t WHERE t.id = given.token_id AND t.status = 'waiting')
        WHEN 'jobs' THEN NOT EXISTS (SELECT FROM awaited a WHERE a.dependent_id = given.id)
        ELSE given.moment <= now() END AS is_over
    FROM given
), done AS (
    UPDATE {schema}.job_queue j SET
        status = CASE WHEN j.cancel_requested_at IS NULL THEN 'waiting' ELSE 'cancelled' END,
        last_cancelled_at = CASE WHEN j.cancel_requested_at IS NOT NULL THEN now() ELSE j.last_cancelled_at END,
        wait_until = CASE WHEN j.cancel_requested_at IS NULL THEN CASE WHEN is_over THEN now() ELSE moment END END,
        wait_token_id = CASE WHEN j.cancel_requested_at IS NULL AND NOT is_over THEN p.token_id END,
        blocked = j.cancel_requested_at IS NULL AND p.kind = 'jobs' AND NOT is_over,
        due = j.cancel_requested_at IS NULL AND is_over,
        output = CASE WHEN j.cancel_requested_at IS NULL THEN j.output END, has_steps = TRUE, updated_at = now(),
        lease_id = NULL, locked_at = NULL, locked_by = NULL, cancel_requested_at = NULL
    FROM planned p WHERE j.id = p.id AND j.lease_id = p.lease_id
    RETURNING j.id, p.lease_id, j.status, j.wait_until, j.has_dependants, p.name, p.seq, p.kind, p.moment, p.token_id,
              p.job_ids, p.place
), kept AS (
    INSERT INTO {schema}.dataqueue_steps (job_id, name, seq, kind, until, token_id, job_ids, place, done_at)
    SELECT id, name, seq, kind, moment, token_id, job_ids, place, NULL FROM done WHERE status = 'waiting'
    ON CONFLICT (job_id, name) DO NOTHING
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, status, CASE WHEN status = 'waiting' THEN jsonb_build_object('waitUntil', moment, 'waitTokenId', token_id)
        || CASE WHEN kind = 'jobs' THEN jsonb_build_object('jobIds', to_jsonb(job_ids)) ELSE '{}' END END
    FROM done
), edges AS (
    INSERT INTO {schema}.dataqueue_dependencies (prerequisite_id, dependent_id)
    SELECT a.prerequisite_id, a.dependent_id FROM awaited a JOIN done ON done.id = a.dependent_id AND done.status = 'waiting'
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING
)
SELECT (SELECT array_agg(lease_id) FROM done),
       (SELECT {schema}.dataqueue_resolve(array_agg(id)) FROM done WHERE has_dependants AND status = 'cancelled' HAVING count(*) > 0),
       (SELECT array_agg(lease_id) FROM done WHERE status = 'cancelled'),
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM done WHERE status = 'waiting' AND wait_until IS NOT NULL)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners
                      WHERE topic = 'work' AND until > now() AND until > (SELECT min(wait_until) FROM done))),
       (SELECT pg_notify('{channel}', 'finished ' || string_agg(id::text, ' ')) FROM done WHERE status = 'cancelled'
        HAVING count(*) > 0)
