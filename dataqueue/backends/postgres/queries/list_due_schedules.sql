SELECT now(),
{schedule}
FROM {schema}.cron_schedules
WHERE status = 'active' AND next_run_at <= now() AND id <> ALL (%(without)s::bigint[])
ORDER BY next_run_at, id LIMIT %(limit)s
