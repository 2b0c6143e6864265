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

-- As before, and a job that the other library takes or ends is parked no longer.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_keep_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.status IN ('completed', 'failed', 'waiting')
           AND (NEW.status <> OLD.status OR NEW.completed_at IS DISTINCT FROM OLD.completed_at
                OR NEW.last_failed_at IS DISTINCT FROM OLD.last_failed_at)
           AND NEW.lease_id IS NOT DISTINCT FROM OLD.lease_id
           AND (OLD.lease_id IS NOT NULL OR OLD.status <> 'processing') THEN
            RETURN NULL;  -- a late completion, failure or wait of an attempt that does not own the job
        END IF;
        IF OLD.lease_id IS NOT NULL AND NEW.lease_id = OLD.lease_id AND NEW.status <> 'processing' THEN
            NEW.lease_id := NULL;  -- its reclaim or retry took the job from our worker, which is told
            NEW.cancel_requested_at := NULL;
        END IF;
    END IF;
    NEW.ready_at := CASE NEW.status
        WHEN 'pending' THEN CASE WHEN NEW.attempts < NEW.max_attempts THEN NEW.run_at END
        WHEN 'failed'  THEN CASE WHEN NEW.attempts < NEW.max_attempts THEN NEW.next_attempt_at END
        WHEN 'waiting' THEN CASE WHEN NEW.wait_token_id IS NULL THEN NEW.wait_until END
    END;
    IF NEW.ready_at IS NULL THEN
        NEW.due := FALSE;
        NEW.parked := FALSE;
    ELSIF TG_OP = 'INSERT' OR NEW.ready_at IS DISTINCT FROM OLD.ready_at THEN
        NEW.due := NEW.ready_at <= now() AND NOT NEW.parked;
    END IF;
    RETURN NEW;
END
$body$;
