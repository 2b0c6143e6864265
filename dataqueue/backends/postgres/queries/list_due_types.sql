-- The types that have a due job: one index probe a type.
WITH RECURSIVE types AS (
    (SELECT job_type FROM {schema}.job_queue WHERE due AND ready_at IS NOT NULL ORDER BY job_type LIMIT 1)
    UNION ALL
    SELECT (SELECT q.job_type FROM {schema}.job_queue q
            WHERE q.due AND q.ready_at IS NOT NULL AND q.job_type > types.job_type ORDER BY q.job_type LIMIT 1)
    FROM types WHERE types.job_type IS NOT NULL
)
SELECT job_type FROM types WHERE job_type IS NOT NULL
