-- An attempt has been given more time: %(ms)s from now. Its worker keeps the time; this is for those who look.
WITH held AS (
    UPDATE {schema}.job_queue SET updated_at = now()
    WHERE id = %(id)s AND lease_id = %(lease_id)s
    RETURNING id
)
INSERT INTO {schema}.job_events (job_id, event_type, metadata)
SELECT id, 'prolonged', jsonb_build_object('until', now() + %(ms)s * interval '1 ms') FROM held
