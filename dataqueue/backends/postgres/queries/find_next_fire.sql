-- The clock, and when the next schedule fires.
SELECT now(), (SELECT next_run_at FROM {schema}.cron_schedules
               WHERE status = 'active' AND next_run_at IS NOT NULL AND id <> ALL (%(without)s::bigint[])
               ORDER BY next_run_at LIMIT 1)
