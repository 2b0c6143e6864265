-- run: statements
-- Only what a statement needs; tests/postgres/test_plans.py shows which needs what.

-- claim_jobs.sql: one type's due jobs in claim order
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_ready
    ON {schema}.job_queue (job_type, priority DESC, ready_at, id) WHERE due AND ready_at IS NOT NULL;

-- promote_due.sql: what falls due next
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_future
    ON {schema}.job_queue (ready_at) WHERE ready_at IS NOT NULL AND NOT due;

-- reclaim_expired.sql, lists and counts by status; completed jobs are found by id
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_unfinished
    ON {schema}.job_queue (status, id) WHERE status <> 'completed';

-- add_job.sql; the TypeScript library relies on exactly this predicate
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS idx_job_queue_idempotency_key
    ON {schema}.job_queue (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- list_jobs.sql by tags
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_tags
    ON {schema}.job_queue USING gin (tags) WHERE tags IS NOT NULL;
