-- Renew the worker's lease; a row that was cleaned away meanwhile is written anew.
INSERT INTO {schema}.dataqueue_workers (id, host, pid, job_types, concurrency, version, group_concurrency, lease_expires_at)
VALUES (%(id)s, %(host)s, %(pid)s, %(job_types)s::text[], %(concurrency)s, %(version)s, %(group_concurrency)s,
        now() + %(lease_seconds)s * interval '1 second')
ON CONFLICT (id) DO UPDATE SET last_heartbeat_at = now(), lease_expires_at = EXCLUDED.lease_expires_at
