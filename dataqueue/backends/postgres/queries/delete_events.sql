-- Delete events from before %(before)s, a page of the log each time; it is in the order of the jobs. Returns how many,
-- and after which job and event to go on (NULL: what follows belongs to jobs that were created later).
WITH page AS MATERIALIZED (
    SELECT job_id, id, created_at <= %(before)s AS old FROM {schema}.job_events
    WHERE (job_id, id) > (%(after_job)s, %(after_event)s) ORDER BY job_id, id LIMIT 5000
), chosen AS MATERIALIZED (
    SELECT job_id, id FROM page WHERE old ORDER BY job_id, id LIMIT %(limit)s
), gone AS (
    DELETE FROM {schema}.job_events e USING chosen c WHERE e.job_id = c.job_id AND e.id = c.id RETURNING e.id
), last AS (
    (SELECT job_id, id FROM chosen WHERE (SELECT count(*) FROM page WHERE old) > %(limit)s
     ORDER BY job_id DESC, id DESC LIMIT 1)
    UNION ALL
    (SELECT job_id, id FROM page
     WHERE (SELECT count(*) FROM page WHERE old) <= %(limit)s AND (SELECT count(*) FROM page) = 5000
     ORDER BY job_id DESC, id DESC LIMIT 1)
)
SELECT (SELECT count(*) FROM gone), last.job_id, last.id
FROM (SELECT) one LEFT JOIN last ON EXISTS (SELECT FROM page WHERE old)
    OR (SELECT q.created_at FROM {schema}.job_queue q WHERE q.id >= last.job_id ORDER BY q.id LIMIT 1) <= %(before)s
