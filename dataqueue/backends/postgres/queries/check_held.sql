-- The leases that hold on these jobs, and whether a cancel was asked for.
SELECT id, lease_id, cancel_requested_at IS NOT NULL FROM {schema}.job_queue
WHERE id = ANY (%(ids)s::bigint[]) AND lease_id IS NOT NULL
