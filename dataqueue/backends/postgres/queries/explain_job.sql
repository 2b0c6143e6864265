-- What decides whether a job runs, read in one snapshot: the clock, when it may be claimed, whether another
-- transaction has its row locked (each transaction that writes holds a lock on its own number), and how many due
-- jobs of its type are claimed before it: two index ranges, counted up to %(most)s.
SELECT now(), j.updated_at, j.ready_at,
       EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'transactionid' AND l.granted
               AND j.xmax <> '0'::xid AND l.transactionid = j.xmax),
       (SELECT count(*) FROM (
           (SELECT 1 FROM {schema}.job_queue q
            WHERE q.job_type = j.job_type AND q.due AND q.ready_at IS NOT NULL AND q.priority > j.priority
              AND q.ready_at <= now() AND j.ready_at <= now()
            LIMIT %(most)s)
           UNION ALL
           (SELECT 1 FROM {schema}.job_queue q
            WHERE q.job_type = j.job_type AND q.due AND q.ready_at IS NOT NULL AND q.priority = j.priority
              AND (q.ready_at, q.id) < (j.ready_at, j.id) AND j.ready_at <= now()
            LIMIT %(most)s)) ahead),
       j.parked, most.running,
       CASE WHEN most.running IS NOT NULL AND j.group_id IS NOT NULL THEN
           (SELECT count(*) FROM {schema}.job_queue r WHERE r.group_id = j.group_id AND r.status = 'processing') END
FROM {schema}.job_queue j
CROSS JOIN (SELECT min(group_concurrency) AS running FROM {schema}.dataqueue_workers
            WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now()) most
WHERE j.id = %(id)s
