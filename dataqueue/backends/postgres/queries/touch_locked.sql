-- On shared tables the TypeScript library reclaims by the age of locked_at, so keep ours young.
UPDATE {schema}.job_queue SET locked_at = now()
WHERE id = ANY (%(ids)s::bigint[]) AND locked_by = %(worker_id)s AND lease_id IS NOT NULL
  AND locked_at < now() - interval '2 minutes'
