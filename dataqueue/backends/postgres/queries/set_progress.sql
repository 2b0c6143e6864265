UPDATE {schema}.job_queue SET progress = %(percent)s, updated_at = now()
WHERE id = %(id)s AND lease_id = %(lease_id)s
