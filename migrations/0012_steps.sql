-- Steps, waits and tokens.

ALTER TABLE {schema}.job_queue ADD COLUMN IF NOT EXISTS has_steps BOOLEAN NOT NULL DEFAULT FALSE;

-- What a job has done so far: one row for each step and wait, never rewritten once it is done.
CREATE TABLE IF NOT EXISTS {schema}.dataqueue_steps (
    job_id     BIGINT NOT NULL,
    name       TEXT NOT NULL,
    seq        INT NOT NULL,
    kind       TEXT NOT NULL,
    result     JSONB,
    until      TIMESTAMPTZ,
    token_id   TEXT,
    job_ids    BIGINT[],
    place      TEXT,
    attempts   INT NOT NULL DEFAULT 1,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    done_at    TIMESTAMPTZ,
    PRIMARY KEY (job_id, name)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

ALTER TABLE {schema}.waitpoints ADD COLUMN IF NOT EXISTS error TEXT;

-- As before; and a job that waits for others in the midst of its work goes on when the last of them has ended, well or not.
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
            UPDATE {schema}.job_queue j SET
                blocked = FALSE, updated_at = now(),
                due = CASE j.status WHEN 'pending' THEN j.run_at <= now() ELSE TRUE END,
                wait_until = CASE j.status WHEN 'pending' THEN j.wait_until ELSE now() END
            WHERE j.id = ANY (dependents) AND j.status IN ('pending', 'waiting') AND j.blocked
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
