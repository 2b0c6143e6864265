-- Claim up to %(limit)s due jobs of these types, best first: highest priority, then longest due.
-- Candidates are read in order without locks, then locked one by one until there are enough, so that
-- other workers find the rest unlocked. {each} and {all} are literals: as parameters the planner would
-- take them for a tenth of the table. Nothing is claimed where limits hold: that is for claim_limited.sql. The lock asks nothing of `due`: while few are ready, the planner
-- would look each of them up in all of their index, and keep that plan when there are many.
WITH picked AS MATERIALIZED (
    SELECT c.id, c.ready_at
    FROM (
        SELECT x.id, x.priority, x.ready_at
        FROM unnest(%(job_types)s::varchar[]) AS wanted (job_type)
        CROSS JOIN LATERAL (
            SELECT q.id, q.priority, q.ready_at FROM {schema}.job_queue q
            WHERE q.job_type = wanted.job_type AND q.due AND q.ready_at IS NOT NULL AND q.ready_at <= now()
            ORDER BY q.priority DESC, q.ready_at, q.id
            LIMIT {each}
        ) x
        ORDER BY x.priority DESC, x.ready_at, x.id
        LIMIT {all}
    ) c
    CROSS JOIN LATERAL (
        SELECT 1 FROM {schema}.job_queue r
        WHERE r.id = c.id AND r.ready_at <= now()
        FOR UPDATE SKIP LOCKED
    ) locked
    WHERE NOT EXISTS (SELECT FROM {schema}.dataqueue_limits
                      WHERE job_type = '' OR job_type = ANY (%(job_types)s::varchar[]))
      AND NOT EXISTS (SELECT FROM {schema}.dataqueue_workers
                      WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now())
    LIMIT %(limit)s
), claimed AS (
    UPDATE {schema}.job_queue SET
        status = 'processing',
        lease_id = nextval('{schema}.dataqueue_lease_seq'),
        locked_at = now(), locked_by = %(worker_id)s, updated_at = now(),
        started_at = COALESCE(started_at, now()),
        last_retried_at = CASE WHEN attempts > 0 AND status <> 'waiting' THEN now() ELSE last_retried_at END,
        attempts = attempts + CASE WHEN status = 'waiting' THEN 0 ELSE 1 END,
        run_at = COALESCE(scheduled_at, run_at), scheduled_at = NULL,
        due = FALSE, next_attempt_at = NULL, pending_reason = NULL, cancel_requested_at = NULL, progress = NULL, output = NULL
    WHERE id = ANY (ARRAY(SELECT id FROM picked))
    RETURNING id, lease_id, job_type, payload::text AS payload, attempts, max_attempts, priority,
              timeout_ms, retry_delay, retry_backoff, retry_delay_max, tags, created_at, run_at, group_id
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT id, 'processing', jsonb_build_object('worker', %(worker_id)s::text) FROM claimed
)
SELECT claimed.* FROM claimed JOIN picked USING (id)
ORDER BY claimed.priority DESC, picked.ready_at, claimed.id
