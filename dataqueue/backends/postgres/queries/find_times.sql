-- For dataqueue.testing.advance_clock: each table of ours, its columns that hold a moment, and whether triggers watch it.
-- From the catalog, so that no new column is forgotten. What belongs to processes, and not to jobs, stays.
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum),
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relnamespace = to_regnamespace(%(schema)s) AND c.relkind IN ('r', 'p')
  AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype)
  AND (c.relname IN ('job_queue', 'job_events', 'waitpoints', 'cron_schedules') OR c.relname LIKE 'dataqueue\_%%')
  AND c.relname NOT IN ('dataqueue_migrations', 'dataqueue_workers', 'dataqueue_listeners')
GROUP BY c.oid, c.relname
ORDER BY c.relname
