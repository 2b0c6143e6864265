-- The due jobs of a job's type that are claimed before it, by group (null for those without): how many there are, and
-- how many of the group run. For explain_job, where groups are limited.
SELECT ahead.group_id, ahead.count,
       (SELECT count(*) FROM {schema}.job_queue r WHERE r.group_id = ahead.group_id AND r.status = 'processing')
FROM (SELECT first.group_id, count(*) AS count
      FROM {schema}.job_queue j CROSS JOIN LATERAL (
          SELECT q.group_id FROM {schema}.job_queue q
          WHERE q.job_type = j.job_type AND q.due AND q.ready_at IS NOT NULL AND q.ready_at <= now()
            AND (q.priority > j.priority
                 OR q.priority = j.priority AND (q.ready_at, q.id) < (j.ready_at, j.id))
          ORDER BY q.priority DESC, q.ready_at, q.id LIMIT %(most)s) first
      WHERE j.id = %(id)s AND j.ready_at <= now()
      GROUP BY first.group_id) ahead
