SELECT
{schedule}
FROM {schema}.cron_schedules
WHERE (%(id)s::bigint IS NULL OR id = %(id)s) AND (%(name)s::text IS NULL OR schedule_name = %(name)s)
  AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY id
