-- Groups that have parked jobs, from one name on; their locks are taken where nobody has them. See unpark.sql.
WITH RECURSIVE parked AS (
    (SELECT group_id FROM {schema}.job_queue WHERE parked AND group_id > %(after)s::varchar ORDER BY group_id LIMIT 1)
    UNION ALL
    SELECT (SELECT q.group_id FROM {schema}.job_queue q WHERE q.parked AND q.group_id > parked.group_id ORDER BY q.group_id LIMIT 1)
    FROM parked WHERE parked.group_id IS NOT NULL
), page AS MATERIALIZED (
    SELECT group_id FROM parked WHERE group_id IS NOT NULL LIMIT 200
)
SELECT set_config('dataqueue.groups', COALESCE((
           SELECT json_agg(group_id)::text FROM page
           WHERE pg_try_advisory_xact_lock(hashtextextended('{channel} ' || group_id, 0))), '[]'), true),
       (SELECT max(group_id) FROM page HAVING count(*) = 200)
