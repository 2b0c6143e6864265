DELETE FROM {schema}.cron_schedules WHERE id = %(id)s
