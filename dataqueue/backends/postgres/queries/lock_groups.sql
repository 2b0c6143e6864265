-- Before unpark.sql, in its transaction: the groups of these jobs, once no claim has them in hand. In one order, so that
-- two of these never wait for each other; a claim waits for nobody.
SELECT set_config('dataqueue.groups', COALESCE(json_agg(group_id)::text, '[]'), true)
FROM (SELECT group_id, pg_advisory_xact_lock(key)
      FROM (SELECT DISTINCT group_id, hashtextextended('{channel} ' || group_id, 0) AS key FROM {schema}.job_queue
            WHERE id = ANY (%(ids)s) AND group_id IS NOT NULL ORDER BY key) keys) locked
