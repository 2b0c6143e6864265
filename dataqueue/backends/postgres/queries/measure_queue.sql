-- The estimated number of rows, and for how many seconds the longest-waiting due job has been due.
SELECT (SELECT reltuples::bigint FROM pg_class WHERE oid = '{schema}.job_queue'::regclass),
       (SELECT extract(epoch FROM now() - min(ready_at))::float8 FROM {schema}.job_queue
        WHERE due AND ready_at IS NOT NULL AND ready_at <= now())
