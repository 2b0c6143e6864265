-- Many jobs and their events, from one JSON array. Ids are drawn in the order given, so a job that
-- stands earlier runs earlier; a repeated idempotency key yields the id of the job that has it.
WITH given AS MATERIALIZED (
    SELECT nextval('{schema}.job_queue_id_seq') AS id, g.*,
           COALESCE(g.at, now() + COALESCE(g.delay, 0) * interval '1 ms') AS moment
    FROM ROWS FROM (json_to_recordset(%(jobs)s::json) AS (
        t text, p jsonb, pr int, at timestamptz, delay bigint, ma int, ms int, tags text[], k text,
        rd int, rb boolean, rm int, g text, dl text, u text, b boolean, dt text[], ra boolean)) WITH ORDINALITY
        AS g (t, p, pr, at, delay, ma, ms, tags, k, rd, rb, rm, g, dl, u, b, dt, ra, ord)
    ORDER BY g.ord
), new AS (
    INSERT INTO {schema}.job_queue (id, job_type, payload, priority, run_at, due, max_attempts, timeout_ms, tags,
                                    idempotency_key, retry_delay, retry_backoff, retry_delay_max, group_id, dead_letter_job_type,
                                    unique_key, blocked, depends_on_tags, run_anyway)
    SELECT id, t, COALESCE(p, 'null'), COALESCE(pr, 0), moment, moment <= now() AND b IS NULL, COALESCE(ma, 3), ms, tags, k, rd,
           rb, rm, g, dl, u, COALESCE(b, FALSE), dt, COALESCE(ra, FALSE)
    FROM given ORDER BY ord
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING id, run_at
), logged AS (
    INSERT INTO {schema}.job_events (job_id, event_type, metadata)
    SELECT new.id, 'added', jsonb_build_object('jobType', given.t) FROM new JOIN given USING (id)
    ORDER BY new.id
)
SELECT given.id, new.id IS NOT NULL, given.k,
       CASE WHEN given.ord = 1 THEN
           (SELECT pg_notify('{channel}', 'work')
            WHERE EXISTS (SELECT FROM {schema}.dataqueue_listeners
                          WHERE topic = 'work' AND until > now()
                            AND (SELECT min(run_at) FROM new) < until)) END
FROM given LEFT JOIN new USING (id) ORDER BY given.ord
