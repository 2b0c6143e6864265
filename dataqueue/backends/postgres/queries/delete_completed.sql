-- Delete completed jobs that ended by %(before)s, with their events. No index is kept for this: one page of the primary
-- key each time. Returns how many, and after which id to go on (NULL: what follows was all created later), and open tokens that went with them.
-- %(dry_run)s: only count.
WITH page AS MATERIALIZED (
    SELECT id, created_at, status = 'completed' AND COALESCE(completed_at, updated_at) <= %(before)s AS old
    FROM {schema}.job_queue WHERE id > %(after)s ORDER BY id LIMIT 5000
), {deleted}
