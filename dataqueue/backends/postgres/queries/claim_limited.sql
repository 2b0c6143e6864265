-- As claim_jobs.sql, where a type is limited or paused, or a worker limits groups; after lock_limits.sql.
-- A job whose group is full is parked: it leaves the line until a place is free (unpark.sql). Parked it is only
-- if its group is full once this claim is made, so that a free place always has a job in line that may take it.
-- Always gives a first row that tells what else is to be known; the columns of its job are null if there is none.
WITH most AS MATERIALIZED (
    SELECT min(group_concurrency) AS running FROM {schema}.dataqueue_workers
    WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now()
), groups AS MATERIALIZED (
    SELECT g.group_id, most.running - (
        SELECT count(*) FROM {schema}.job_queue r
        WHERE r.group_id = g.group_id AND r.status = 'processing') AS free
    FROM most CROSS JOIN json_array_elements_text(current_setting('dataqueue.groups')::json) AS g (group_id)
    WHERE most.running IS NOT NULL
), types AS MATERIALIZED (
    SELECT wanted.job_type, limits.job_type IS NOT NULL AND limits.rate_count IS NOT NULL AS rated,
           CASE WHEN EXISTS (SELECT FROM {schema}.dataqueue_limits WHERE job_type = '' AND paused_at IS NOT NULL)
                     OR limits.paused_at IS NOT NULL THEN 0
                WHEN limits.max_concurrency IS NULL AND limits.rate_count IS NULL THEN NULL
                WHEN held.job_type IS NULL THEN 0
                ELSE GREATEST(0, LEAST(
                    limits.max_concurrency - (SELECT count(*) FROM {schema}.job_queue r
                                              WHERE r.status = 'processing' AND r.job_type = wanted.job_type
                                                AND limits.max_concurrency IS NOT NULL),
                    limits.rate_count - COALESCE(started.count, 0))) END AS free,
           limits.paused_at IS NULL AND held.job_type IS NULL
               AND (limits.max_concurrency IS NOT NULL OR limits.rate_count IS NOT NULL) AS in_other_hands,
           limits.max_concurrency IS NOT NULL AS counted, started.first_ms + limits.rate_ms AS rate_opens_ms
    FROM unnest(%(job_types)s::varchar[]) AS wanted (job_type)
    LEFT JOIN {schema}.dataqueue_limits limits USING (job_type)
    LEFT JOIN json_array_elements_text(current_setting('dataqueue.types')::json) AS held (job_type) USING (job_type)
    LEFT JOIN LATERAL (
        SELECT sum((start->>1)::int) AS count, min((start->>0)::float8) AS first_ms
        FROM jsonb_array_elements(limits.starts) start
        WHERE (start->>0)::float8 > extract(epoch FROM now()) * 1000 - limits.rate_ms
    ) started ON limits.rate_count IS NOT NULL
), line AS MATERIALIZED (
    SELECT x.*, types.job_type, row_number() OVER (PARTITION BY x.group_id ORDER BY x.priority DESC, x.ready_at, x.id) AS in_group
    FROM types CROSS JOIN LATERAL (
        SELECT first.*, row_number() OVER (ORDER BY first.priority DESC, first.ready_at, first.id) AS in_type
        FROM (SELECT q.id, q.priority, q.ready_at, q.group_id FROM {schema}.job_queue q
              WHERE q.job_type = types.job_type AND q.due AND q.ready_at IS NOT NULL AND q.ready_at <= now()
                AND (types.free IS NULL OR types.free > 0)
              ORDER BY q.priority DESC, q.ready_at, q.id
              LIMIT {each}) first
    ) x
    WHERE types.free IS NULL OR x.in_type <= types.free
    ORDER BY x.priority DESC, x.ready_at, x.id
    LIMIT {all}
), placed AS MATERIALIZED (
    SELECT line.*,
           CASE WHEN line.group_id IS NULL OR most.running IS NULL THEN 'goes'
                WHEN groups.group_id IS NULL THEN 'in other hands'
                WHEN line.in_group <= groups.free THEN 'goes' ELSE 'waits' END AS what, groups.free
    FROM line CROSS JOIN most LEFT JOIN groups USING (group_id)
), picked AS MATERIALIZED (
    SELECT c.id, c.ready_at, c.group_id
    FROM (SELECT * FROM placed WHERE what = 'goes' ORDER BY priority DESC, ready_at, id) c
    CROSS JOIN LATERAL (
        SELECT 1 FROM {schema}.job_queue r
        WHERE r.id = c.id AND r.ready_at <= now() AND NOT r.blocked
        FOR UPDATE SKIP LOCKED
    ) locked
    LIMIT %(limit)s
), parked AS (
    UPDATE {schema}.job_queue q SET
        parked = TRUE, due = FALSE, run_at = COALESCE(q.scheduled_at, q.run_at), scheduled_at = NULL
    FROM (SELECT placed.id FROM placed
          CROSS JOIN LATERAL (
              SELECT 1 FROM {schema}.job_queue r WHERE r.id = placed.id AND r.ready_at <= now() FOR UPDATE SKIP LOCKED
          ) locked
          WHERE placed.what = 'waits'
            AND placed.free <= (SELECT count(*) FROM picked WHERE picked.group_id = placed.group_id)) full_up
    WHERE q.id = full_up.id AND q.id = ANY (ARRAY(SELECT id FROM placed WHERE what = 'waits'))
    RETURNING q.id
), {claimed}, taken AS MATERIALIZED (
    SELECT claimed.job_type, count(*) AS count FROM claimed JOIN types USING (job_type) WHERE types.rated GROUP BY 1
), counted AS (
    -- Starts within a hundredth of the time are kept as one, at the last of them.
    UPDATE {schema}.dataqueue_limits limits SET starts = (
        SELECT jsonb_agg(jsonb_build_array(slot.ms, slot.count) ORDER BY slot.ms)
        FROM (SELECT max(one.ms) AS ms, sum(one.count) AS count
              FROM (SELECT (start->>0)::float8 AS ms, (start->>1)::int AS count FROM jsonb_array_elements(limits.starts) start
                    UNION ALL SELECT extract(epoch FROM now())::float8 * 1000, taken.count) one
              WHERE one.ms > extract(epoch FROM now()) * 1000 - limits.rate_ms
              GROUP BY floor(one.ms / GREATEST(limits.rate_ms / 100.0, 1))) slot)
    FROM taken WHERE limits.job_type = taken.job_type
)
SELECT EXISTS (SELECT FROM placed WHERE what = 'in other hands') OR EXISTS (SELECT FROM types WHERE in_other_hands),
       (SELECT count(*) FROM parked),
       (SELECT min(rate_opens_ms) - extract(epoch FROM now())::float8 * 1000 FROM types
        LEFT JOIN taken USING (job_type)
        WHERE types.rated AND types.free - COALESCE(taken.count, 0) <= 0) AS opens_in_ms,
       claimed.*, claimed.group_id IS NOT NULL OR types.counted AS shares
FROM (SELECT) told
LEFT JOIN (claimed JOIN picked USING (id)) ON TRUE
LEFT JOIN types ON types.job_type = claimed.job_type
ORDER BY claimed.priority DESC, picked.ready_at, claimed.id
