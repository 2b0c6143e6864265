-- Jobs that the store thinks this worker holds.
SELECT id, lease_id FROM {schema}.job_queue
WHERE status = 'processing' AND locked_by = %(worker_id)s AND lease_id IS NOT NULL
