UPDATE {schema}.job_queue SET output = %(output)s::jsonb, updated_at = now()
WHERE id = %(id)s AND lease_id = %(lease_id)s
