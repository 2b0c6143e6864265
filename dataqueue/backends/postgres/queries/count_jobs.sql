-- Counts by type and status; completed jobs only where asked for, since counting millions takes seconds.
SELECT job_type, status, count(*) FROM {schema}.job_queue
WHERE status <> 'completed' OR %(completed)s GROUP BY job_type, status
