-- Make a worker known, unless a live one has its name or a dead one's jobs still wait under it. Long-gone workers are forgotten on the way.
WITH forgotten AS (
    DELETE FROM {schema}.dataqueue_workers w
    WHERE w.lease_expires_at < now() - interval '1 day' AND w.id <> %(id)s
)
INSERT INTO {schema}.dataqueue_workers AS w (id, host, pid, job_types, concurrency, version, group_concurrency, lease_expires_at)
SELECT %(id)s, %(host)s, %(pid)s, %(job_types)s::text[], %(concurrency)s, %(version)s, %(group_concurrency)s,
       now() + %(lease_seconds)s * interval '1 second'
WHERE NOT EXISTS (SELECT FROM {schema}.job_queue j
                  WHERE j.status = 'processing' AND j.lease_id IS NOT NULL AND j.locked_by = %(id)s)
ON CONFLICT (id) DO UPDATE SET
    host = EXCLUDED.host, pid = EXCLUDED.pid, job_types = EXCLUDED.job_types,
    concurrency = EXCLUDED.concurrency, version = EXCLUDED.version, group_concurrency = EXCLUDED.group_concurrency, started_at = now(),
    last_heartbeat_at = now(), lease_expires_at = EXCLUDED.lease_expires_at
WHERE w.lease_expires_at < now()
RETURNING w.id
