-- Times of recently finished jobs. No index is kept for this, since each would cost on every completion: finished
-- jobs are looked for among the newest ids, and among those just below what runs or waits now.
WITH marks AS (
    SELECT max(id) + 1 AS mark FROM {schema}.job_queue
    UNION
    SELECT max(id) FROM {schema}.job_queue WHERE status = 'processing'
    UNION
    SELECT (SELECT min(id) FROM {schema}.job_queue WHERE status = 'pending')
), near AS (
    SELECT DISTINCT n.id FROM marks
    CROSS JOIN LATERAL (SELECT q.id FROM {schema}.job_queue q WHERE q.id < marks.mark
                        ORDER BY q.id DESC LIMIT %(limit)s) n
)
SELECT q.job_type, q.status, q.created_at, q.run_at, q.started_at,
       CASE q.status WHEN 'completed' THEN q.completed_at ELSE q.last_failed_at END, q.attempts
FROM near JOIN {schema}.job_queue q USING (id)
WHERE q.status IN ('completed', 'failed')
  AND (%(job_type)s::text IS NULL OR q.job_type = %(job_type)s::text)
ORDER BY 6 DESC NULLS LAST LIMIT %(limit)s
