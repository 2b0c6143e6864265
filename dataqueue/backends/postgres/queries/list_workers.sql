SELECT w.id, w.host, w.pid, w.job_types, w.concurrency, w.version, w.started_at, w.last_heartbeat_at,
       w.lease_expires_at, w.lease_expires_at >= now(), COALESCE(r.running, 0), w.group_concurrency
FROM {schema}.dataqueue_workers w
LEFT JOIN (SELECT locked_by, count(*) AS running FROM {schema}.job_queue
           WHERE status = 'processing' GROUP BY locked_by) r ON r.locked_by = w.id
ORDER BY w.started_at, w.id
