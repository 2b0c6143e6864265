-- The jobs that hold these idempotency keys.
SELECT idempotency_key, id FROM {schema}.job_queue WHERE idempotency_key = ANY (%(keys)s::text[])
