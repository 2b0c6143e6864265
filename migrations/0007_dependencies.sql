-- Dependencies, dead letters and unique jobs. Columns that are null, or have a constant default, rewrite nothing.

ALTER TABLE {schema}.job_queue
    ADD COLUMN IF NOT EXISTS blocked        BOOLEAN NOT NULL DEFAULT FALSE,  -- while pending: a prerequisite has not ended
    ADD COLUMN IF NOT EXISTS has_dependants BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN IF NOT EXISTS depends_on     BIGINT[],  -- the jobs that were named; depends_on_job_ids is a mirror of them
    ADD COLUMN IF NOT EXISTS run_anyway     BOOLEAN NOT NULL DEFAULT FALSE,  -- also after a prerequisite that failed
    ADD COLUMN IF NOT EXISTS unique_key     TEXT;

-- Who waits for whom: a row goes when its prerequisite has ended.
CREATE TABLE IF NOT EXISTS {schema}.dataqueue_dependencies (
    prerequisite_id BIGINT NOT NULL,
    dependent_id    BIGINT NOT NULL,
    PRIMARY KEY (prerequisite_id, dependent_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX IF NOT EXISTS dataqueue_prerequisites ON {schema}.dataqueue_dependencies (dependent_id);

-- These jobs have ended: whoever waited for the last of them may run, or is cancelled with all that wait for it. Called by
-- every statement that ends jobs, for those that have dependants; each step looks anew, after the locks that it needs.
-- Returns what was cancelled.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_resolve(ended BIGINT[]) RETURNS BIGINT[] LANGUAGE plpgsql AS $body$
DECLARE
    roots      BIGINT[] := ended;
    all_gone   BIGINT[] := '{}';
    dependents BIGINT[];
    causes     BIGINT[];
    freed      BIGINT := 0;
    number     BIGINT;
BEGIN
    WHILE cardinality(ended) > 0 LOOP
        WITH gone AS (
            DELETE FROM {schema}.dataqueue_dependencies d USING unnest(ended, roots) AS e (id, root)
            WHERE d.prerequisite_id = e.id AND d.prerequisite_id = ANY (ended)  -- else all edges are read, if most are of one job
            RETURNING d.dependent_id, d.prerequisite_id, e.root
        )
        SELECT array_agg(g.dependent_id ORDER BY g.dependent_id),
               array_agg(CASE WHEN p.status <> 'completed' THEN g.root END ORDER BY g.dependent_id)
        INTO dependents, causes
        FROM gone g LEFT JOIN {schema}.job_queue p ON p.id = g.prerequisite_id;
        EXIT WHEN dependents IS NULL;

        PERFORM 1 FROM {schema}.job_queue WHERE id = ANY (dependents) ORDER BY id FOR NO KEY UPDATE;
        WITH doomed AS (
            SELECT d.id, min(d.cause) AS root FROM unnest(dependents, causes) AS d (id, cause)
            WHERE d.cause IS NOT NULL GROUP BY d.id
        ), done AS (
            UPDATE {schema}.job_queue j SET
                status = 'cancelled', last_cancelled_at = now(), updated_at = now(),
                pending_reason = format('{"rootJobId":%s,"dependencyCascade":true}', doomed.root)
            FROM doomed
            WHERE j.id = doomed.id AND j.status = 'pending' AND j.blocked AND NOT j.run_anyway
            RETURNING j.id, doomed.root
        ), logged AS (
            INSERT INTO {schema}.job_events (job_id, event_type, metadata)
            SELECT id, 'cancelled', jsonb_build_object('rootJobId', root, 'dependencyCascade', TRUE) FROM done
        )
        SELECT COALESCE(array_agg(id), '{}'), COALESCE(array_agg(root), '{}') INTO ended, roots FROM done;
        all_gone := all_gone || ended;

        WITH done AS (
            UPDATE {schema}.job_queue j SET blocked = FALSE, due = j.run_at <= now(), updated_at = now()
            WHERE j.id = ANY (dependents) AND j.status = 'pending' AND j.blocked
              AND NOT EXISTS (SELECT FROM {schema}.dataqueue_dependencies d WHERE d.dependent_id = j.id)
            RETURNING j.id
        )
        INSERT INTO {schema}.job_events (job_id, event_type) SELECT id, 'unblocked' FROM done;
        GET DIAGNOSTICS number = ROW_COUNT;
        freed := freed + number;
    END LOOP;
    PERFORM pg_notify('{channel}', 'work')
    WHERE freed > 0 AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now());
    PERFORM pg_notify('{channel}', left('finished ' || array_to_string(all_gone[1:300], ' '), 7000))
    WHERE cardinality(all_gone) > 0
      AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'finished' AND until > now());
    RETURN all_gone;
END
$body$;

-- Make these jobs, which are blocked, wait for what their columns name: jobs by id, and every unfinished job with all
-- those tags that was added before. Jobs that are run again wait only for those
-- they named that may still end well.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_depend(jobs BIGINT[], again BOOLEAN) RETURNS VOID LANGUAGE plpgsql AS $body$
DECLARE
    missing BIGINT;
    tagged  RECORD;
BEGIN
    SELECT named.id INTO missing
    FROM {schema}.job_queue j CROSS JOIN LATERAL unnest(j.depends_on) AS named (id)
    WHERE NOT again AND j.id = ANY (jobs) AND NOT EXISTS (SELECT FROM {schema}.job_queue p WHERE p.id = named.id)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'no job %', missing USING ERRCODE = 'DQ404', DETAIL = missing::text;
    END IF;
    -- Ended ones are kept from being cleaned up until the commit, which asks how they have ended.
    PERFORM 1 FROM {schema}.job_queue p
    WHERE p.id IN (SELECT unnest(j.depends_on) FROM {schema}.job_queue j WHERE j.id = ANY (jobs))
      AND (p.status = 'cancelled' OR (p.status = 'failed' AND p.next_attempt_at IS NULL))
    ORDER BY p.id FOR KEY SHARE;
    INSERT INTO {schema}.dataqueue_dependencies (prerequisite_id, dependent_id)
    SELECT p.id, j.id
    FROM {schema}.job_queue j CROSS JOIN LATERAL unnest(j.depends_on) AS named (id)
    JOIN {schema}.job_queue p ON p.id = named.id
    WHERE j.id = ANY (jobs) AND p.status <> 'completed'
      AND NOT (again AND (p.status = 'cancelled' OR (p.status = 'failed' AND p.next_attempt_at IS NULL)))
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING;
    FOR tagged IN SELECT q.id, q.depends_on_tags AS tags FROM {schema}.job_queue q
             WHERE NOT again AND q.id = ANY (jobs) AND cardinality(q.depends_on_tags) > 0 ORDER BY q.id LOOP
        INSERT INTO {schema}.dataqueue_dependencies (prerequisite_id, dependent_id)
        SELECT p.id, tagged.id FROM {schema}.job_queue p
        WHERE p.tags @> tagged.tags AND p.id < tagged.id
          AND (p.status IN ('pending', 'processing', 'waiting') OR (p.status = 'failed' AND p.next_attempt_at IS NOT NULL))
        ORDER BY 1
        ON CONFLICT DO NOTHING;
    END LOOP;
    -- Not for jobs that are run again: their rows are locked already, so that others would wait while this waits politely.
    PERFORM set_config('dataqueue.joining',
        (COALESCE(NULLIF(current_setting('dataqueue.joining', TRUE), ''), '{}')::bigint[] || jobs)::text, TRUE)
    WHERE NOT again;
    UPDATE {schema}.job_queue j SET blocked = FALSE, due = j.run_at <= now()
    WHERE j.id = ANY (jobs) AND j.blocked
      AND NOT EXISTS (SELECT FROM {schema}.dataqueue_dependencies d WHERE d.dependent_id = j.id);
END
$body$;

-- The prerequisites of these jobs, locked all at once: who waits for a lock holds none of the others meanwhile, since workers
-- that record ends lock in other orders, and does not wait so long that it is chosen as the victim of a deadlock of others
-- (deadlock_timeout): the error would be the application's, at its commit.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_lock_prerequisites(jobs BIGINT[]) RETURNS VOID LANGUAGE plpgsql AS $body$
DECLARE
    own_timeout TEXT := current_setting('lock_timeout');
    wanted      BIGINT[];
    held        BIGINT[];
    busy        BIGINT;
BEGIN
    SELECT array_agg(DISTINCT d.prerequisite_id) INTO wanted
    FROM {schema}.dataqueue_dependencies d WHERE d.dependent_id = ANY (jobs);
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', TRUE);
            PERFORM 1 FROM {schema}.job_queue WHERE id = busy FOR NO KEY UPDATE;
            SELECT array_agg(q.id) INTO held FROM (
                SELECT id FROM {schema}.job_queue WHERE id = ANY (wanted) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) q;
            SELECT min(q.id) INTO busy FROM (
                SELECT unnest(wanted) AS id EXCEPT SELECT unnest(held)) missing JOIN {schema}.job_queue q USING (id);
            EXIT WHEN busy IS NULL;
            RAISE lock_not_available;
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- which has given the locks back
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', own_timeout, TRUE);
END
$body$;

-- At the commit of who made a job wait: either its prerequisite has ended meanwhile, which is seen here, or its end will see
-- the dependant. Only now, because this locks the prerequisite's row, and a transaction of the application may last.
CREATE OR REPLACE FUNCTION {schema}.dataqueue_join() RETURNS trigger LANGUAGE plpgsql AS $body$
DECLARE
    joining TEXT := current_setting('dataqueue.joining', TRUE);
    p       RECORD;
BEGIN
    IF joining <> '' THEN
        PERFORM set_config('dataqueue.joining', '', TRUE);
        PERFORM {schema}.dataqueue_lock_prerequisites(joining::bigint[]);
    END IF;
    SELECT q.status, q.next_attempt_at, q.has_dependants INTO p
    FROM {schema}.job_queue q WHERE q.id = NEW.prerequisite_id FOR NO KEY UPDATE;
    IF NOT FOUND OR p.status IN ('completed', 'cancelled') OR (p.status = 'failed' AND p.next_attempt_at IS NULL) THEN
        PERFORM {schema}.dataqueue_resolve(ARRAY[NEW.prerequisite_id]);
    ELSIF NOT p.has_dependants THEN
        UPDATE {schema}.job_queue SET has_dependants = TRUE WHERE id = NEW.prerequisite_id;
        -- A claim may have passed it over while it was locked here.
        PERFORM pg_notify('{channel}', 'work')
        WHERE p.status = 'pending'
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now());
    END IF;
    RETURN NULL;
END
$body$;

DROP TRIGGER IF EXISTS dataqueue_join ON {schema}.dataqueue_dependencies;
CREATE CONSTRAINT TRIGGER dataqueue_join AFTER INSERT ON {schema}.dataqueue_dependencies
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {schema}.dataqueue_join();
