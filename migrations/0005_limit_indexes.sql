-- run: statements
-- Only what a statement needs; tests/postgres/test_plans.py shows which needs what.

-- promote_due.sql: what falls due next, without those that are due and parked
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_later
    ON {schema}.job_queue (ready_at) WHERE ready_at IS NOT NULL AND NOT due AND NOT parked;
DROP INDEX CONCURRENTLY IF EXISTS {schema}.dataqueue_future;

-- unpark.sql: the best parked jobs of a group and type
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_parked
    ON {schema}.job_queue (group_id, job_type, priority DESC, ready_at, id) WHERE parked;

-- claim_limited.sql: how many of a group are running
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_group_running
    ON {schema}.job_queue (group_id) WHERE status = 'processing' AND group_id IS NOT NULL;
