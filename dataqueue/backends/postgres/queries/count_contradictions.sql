-- Rows that no sequence of ours leaves behind; each kind with an example. Reads unfinished jobs only.
SELECT kind, count(*), min(id) FROM (
    SELECT id, unnest(ARRAY[
        CASE WHEN status NOT IN ('pending', 'processing', 'failed', 'cancelled', 'waiting') THEN 'unknown status' END,
        CASE WHEN status <> 'processing' AND lease_id IS NOT NULL THEN 'a lease on a job that is not running' END,
        CASE WHEN status <> 'processing' AND locked_by IS NOT NULL AND lease_id IS NOT NULL
             THEN 'a worker on a job that is not running' END,
        CASE WHEN due AND ready_at IS NULL THEN 'due, but never ready' END,
        CASE WHEN status = 'pending' AND attempts < max_attempts AND ready_at IS DISTINCT FROM run_at
             THEN 'pending, but not ready at its time' END,
        CASE WHEN status = 'pending' AND attempts >= max_attempts THEN 'pending without an attempt left' END,
        CASE WHEN parked AND (due OR ready_at IS NULL OR group_id IS NULL) THEN 'parked, but not by its group' END,
        CASE WHEN blocked AND due THEN 'due, but it waits for others' END,
        CASE WHEN blocked AND status = 'pending' AND NOT EXISTS (SELECT FROM {schema}.dataqueue_dependencies d WHERE d.dependent_id = j.id)
             THEN 'it waits for others, but for none' END,
        CASE WHEN attempts < 0 OR max_attempts < 1 THEN 'impossible attempts' END
    ]) AS kind
    FROM {schema}.job_queue j WHERE status <> 'completed'
) found WHERE kind IS NOT NULL GROUP BY kind ORDER BY kind
