-- Delete failed jobs (without a retry due) or cancelled ones that ended by %(before)s, with their events; one page of
-- those with %(status)s each time. Returns as delete_completed.sql does.
WITH page AS MATERIALIZED (
    SELECT id, created_at, (status = 'cancelled' OR next_attempt_at IS NULL)
        AND COALESCE(CASE status WHEN 'failed' THEN last_failed_at ELSE last_cancelled_at END, updated_at) <= %(before)s AS old
    FROM {schema}.job_queue
    WHERE status = %(status)s AND status <> 'completed' AND id > %(after)s ORDER BY id LIMIT 5000
), {deleted}
