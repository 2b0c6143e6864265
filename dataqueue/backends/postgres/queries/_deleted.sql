-- Part of the statements that delete jobs: of a page of jobs, those that ended by %(before)s, with all that belongs to
-- them. Nobody is waited for: what somebody has in hand is left for the next time.
chosen AS MATERIALIZED (
    SELECT id FROM page WHERE old ORDER BY id LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT j.id FROM {schema}.job_queue j
    WHERE j.id = ANY (ARRAY(SELECT id FROM chosen)) AND NOT %(dry_run)s
      AND j.status = %(status)s AND (j.status <> 'failed' OR j.next_attempt_at IS NULL)
      AND COALESCE(CASE j.status WHEN 'completed' THEN j.completed_at WHEN 'failed' THEN j.last_failed_at
                   ELSE j.last_cancelled_at END, j.updated_at) <= %(before)s
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
), gone AS (
    DELETE FROM {schema}.job_queue WHERE id = ANY (ARRAY(SELECT id FROM locked))
    RETURNING id, has_steps, depends_on IS NOT NULL OR depends_on_tags IS NOT NULL AS waited
), events AS (
    DELETE FROM {schema}.job_events WHERE job_id = ANY (ARRAY(SELECT id FROM gone))
), steps AS (
    DELETE FROM {schema}.dataqueue_steps WHERE job_id = ANY (ARRAY(SELECT id FROM gone WHERE has_steps))
), tokens AS (
    DELETE FROM {schema}.waitpoints WHERE job_id = ANY (ARRAY(SELECT id FROM gone WHERE has_steps)) RETURNING id, status
), waits AS MATERIALIZED (
    SELECT prerequisite_id, dependent_id FROM {schema}.dataqueue_dependencies
    WHERE dependent_id = ANY (ARRAY(SELECT id FROM gone WHERE waited)) FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM {schema}.dataqueue_dependencies d USING waits w
    WHERE d.prerequisite_id = w.prerequisite_id AND d.dependent_id = w.dependent_id
)
SELECT CASE WHEN %(dry_run)s THEN (SELECT count(*) FROM chosen) ELSE (SELECT count(*) FROM gone) END,
       CASE WHEN (SELECT count(*) FROM page WHERE old) > %(limit)s THEN (SELECT max(id) FROM chosen)
            WHEN count(*) = 5000 AND min(created_at) <= %(before)s THEN max(id) END,
       (SELECT array_agg(id) FROM tokens WHERE status = 'waiting')
FROM page
