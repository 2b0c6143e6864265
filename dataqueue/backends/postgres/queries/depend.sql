-- Jobs that were just added as blocked: what they wait for. A mirror of the ids is kept for the other library, while they fit
-- its columns.
WITH given AS (
    SELECT * FROM json_to_recordset(%(jobs)s::json) AS g (id bigint, on_ids bigint[])
), named AS (
    UPDATE {schema}.job_queue j SET
        depends_on = given.on_ids,
        depends_on_job_ids = CASE WHEN 2147483647 >= ALL (given.on_ids) THEN given.on_ids::int[] END
    FROM given WHERE j.id = given.id
    RETURNING j.id
)
SELECT {schema}.dataqueue_depend(array_agg(id), FALSE) FROM named
