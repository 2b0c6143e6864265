-- Part of the statements that cancel waiting jobs, those of `leaving`: a wait that goes on would have to begin anew.
open_waits AS (
    DELETE FROM {schema}.dataqueue_steps
    WHERE job_id = ANY (ARRAY(SELECT id FROM leaving)) AND done_at IS NULL AND (until IS NULL OR until > now())
    RETURNING job_id, kind
), edges AS MATERIALIZED (
    SELECT prerequisite_id, dependent_id FROM {schema}.dataqueue_dependencies
    WHERE dependent_id = ANY (ARRAY(SELECT job_id FROM open_waits WHERE kind = 'jobs')) FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM {schema}.dataqueue_dependencies d USING edges
    WHERE d.prerequisite_id = edges.prerequisite_id AND d.dependent_id = edges.dependent_id
)
