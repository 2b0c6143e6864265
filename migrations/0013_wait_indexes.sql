-- run: statements
-- Only what a statement needs; tests/postgres/test_plans.py shows which needs what.

-- end_token.sql: who waits for a token
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_awaited
    ON {schema}.job_queue (wait_token_id) WHERE wait_token_id IS NOT NULL;

-- expire_tokens.sql
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_expiring
    ON {schema}.waitpoints (timeout_at) WHERE status = 'waiting' AND timeout_at IS NOT NULL;

-- delete_tokens.sql
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_ended_tokens
    ON {schema}.waitpoints (completed_at) WHERE job_id IS NULL AND completed_at IS NOT NULL;

-- the tokens of a job that is deleted
CREATE INDEX CONCURRENTLY IF NOT EXISTS dataqueue_job_tokens ON {schema}.waitpoints (job_id) WHERE job_id IS NOT NULL;
