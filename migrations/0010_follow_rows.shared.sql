-- What the other library's writers do not do themselves: they insert jobs with dependencies, take jobs and end them.
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
        IF NEW.status = 'processing' THEN
            NEW.blocked := FALSE;  -- it judges dependencies by itself
        END IF;
    ELSIF NOT NEW.blocked AND NEW.status = 'pending'
          AND (cardinality(NEW.depends_on_job_ids) > 0 OR cardinality(NEW.depends_on_tags) > 0) THEN
        NEW.blocked := TRUE;
        NEW.depends_on := COALESCE(NEW.depends_on_job_ids, '{}');
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
        NEW.due := NEW.ready_at <= now() AND NOT NEW.parked AND NOT NEW.blocked;
    END IF;
    RETURN NEW;
END
$body$;

CREATE OR REPLACE FUNCTION {schema}.dataqueue_follow_row() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM {schema}.dataqueue_depend(ARRAY[NEW.id], FALSE);
    ELSE
        PERFORM {schema}.dataqueue_resolve(ARRAY[NEW.id]);
    END IF;
    RETURN NULL;
END
$body$;

DROP TRIGGER IF EXISTS dataqueue_follow_insert ON {schema}.job_queue;
CREATE TRIGGER dataqueue_follow_insert AFTER INSERT ON {schema}.job_queue
    FOR EACH ROW WHEN (NEW.blocked AND NEW.depends_on IS NOT NULL)
    EXECUTE FUNCTION {schema}.dataqueue_follow_row();
DROP TRIGGER IF EXISTS dataqueue_follow_end ON {schema}.job_queue;
CREATE TRIGGER dataqueue_follow_end AFTER UPDATE ON {schema}.job_queue
    FOR EACH ROW WHEN (NEW.has_dependants AND NEW.status <> OLD.status
        AND (NEW.status IN ('completed', 'cancelled') OR (NEW.status = 'failed' AND NEW.next_attempt_at IS NULL)))
    EXECUTE FUNCTION {schema}.dataqueue_follow_row();
