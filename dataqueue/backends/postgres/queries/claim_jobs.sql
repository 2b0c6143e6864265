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
        WHERE r.id = c.id AND r.ready_at <= now() AND NOT r.blocked
        FOR UPDATE SKIP LOCKED
    ) locked
    WHERE NOT EXISTS (SELECT FROM {schema}.dataqueue_limits
                      WHERE job_type = '' OR job_type = ANY (%(job_types)s::varchar[]))
      AND NOT EXISTS (SELECT FROM {schema}.dataqueue_workers
                      WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now())
    LIMIT %(limit)s
), {claimed}
SELECT claimed.* FROM claimed JOIN picked USING (id)
ORDER BY claimed.priority DESC, picked.ready_at, claimed.id
