-- Groups and limits: a job that its group has no place for is parked, out of the line that claims read.
-- A nullable column, or one with a constant default, rewrites nothing.

ALTER TABLE {schema}.job_queue
    ADD COLUMN IF NOT EXISTS parked       BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN IF NOT EXISTS scheduled_at TIMESTAMPTZ;  -- its run_at, while that holds its place in the line

ALTER TABLE {schema}.dataqueue_workers
    ADD COLUMN IF NOT EXISTS group_concurrency INT;

-- One row for each type that is limited or paused; the empty name is the whole queue. Mostly empty.
CREATE TABLE IF NOT EXISTS {schema}.dataqueue_limits (
    job_type        VARCHAR(255) PRIMARY KEY,
    paused_at       TIMESTAMPTZ,
    paused_by       TEXT,
    max_concurrency INT,
    rate_count      INT,
    rate_ms         BIGINT,
    starts          JSONB NOT NULL DEFAULT '[]'  -- [ms, how many] of the starts within rate_ms
) WITH (fillfactor = 50);
