SELECT now(),
{schedule}
FROM {schema}.cron_schedules WHERE id = %(id)s FOR UPDATE
