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
