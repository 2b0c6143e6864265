-- Part of the statements by which people change jobs: which of %(ids)s there are, and which may be changed now. Of
-- several only those that nobody has in hand, locked in one order: who has some may wait for others of them.
known AS MATERIALIZED (
    SELECT id, status, cancel_requested_at FROM {schema}.job_queue WHERE id = ANY (%(ids)s::bigint[])
), free AS MATERIALIZED (
    SELECT id FROM {schema}.job_queue
    WHERE cardinality(%(ids)s::bigint[]) > 1 AND id = ANY (%(ids)s::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED
), chosen AS MATERIALIZED (
    SELECT id FROM free UNION ALL SELECT (%(ids)s::bigint[])[1] WHERE cardinality(%(ids)s::bigint[]) = 1
)
