-- run: statements
-- Only what a statement needs; tests/postgres/test_plans.py shows which needs what.

-- promote_due.sql: what falls due next, without those that are parked or wait for others
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_upcoming
    ON {schema}.job_queue (ready_at) WHERE ready_at IS NOT NULL AND NOT due AND NOT parked AND NOT blocked;
DROP INDEX CONCURRENTLY IF EXISTS {schema}.dataqueue_later;

-- find_unique.sql: the jobs with a unique key
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_unique
    ON {schema}.job_queue (unique_key, status, id) WHERE unique_key IS NOT NULL;
