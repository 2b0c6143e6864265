SELECT id, job_id, event_type, created_at, metadata::text FROM {schema}.job_events
WHERE job_id = %(job_id)s ORDER BY id
