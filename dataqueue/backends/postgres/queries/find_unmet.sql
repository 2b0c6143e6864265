-- The jobs that a blocked job waits for, some of them with their states.
SELECT p.id, p.status, count(*) OVER ()
FROM {schema}.dataqueue_dependencies d JOIN {schema}.job_queue p ON p.id = d.prerequisite_id
WHERE d.dependent_id = %(id)s ORDER BY p.id LIMIT %(most)s
