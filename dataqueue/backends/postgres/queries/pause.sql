-- Claim nothing of this type from now on; the empty name is every type. %(by)s: whose wish.
INSERT INTO {schema}.dataqueue_limits AS l (job_type, paused_at, paused_by) VALUES (%(job_type)s, now(), %(by)s)
ON CONFLICT (job_type) DO UPDATE SET paused_at = EXCLUDED.paused_at, paused_by = EXCLUDED.paused_by
WHERE l.paused_at IS NULL
