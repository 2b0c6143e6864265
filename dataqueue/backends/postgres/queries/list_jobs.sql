-- Jobs that meet all conditions, highest id first. Planned anew each time, so that conditions that are
-- not given vanish from the plan.
SELECT id, job_type, CASE WHEN %(values)s::bool THEN payload::text END, status, COALESCE(priority, 0), created_at, updated_at, COALESCE(scheduled_at, run_at),
       COALESCE(attempts, 0), COALESCE(max_attempts, 3), next_attempt_at, started_at, completed_at, last_failed_at,
       last_retried_at, last_cancelled_at, locked_at, locked_by, cancel_requested_at, failure_reason,
       error_history::text, pending_reason, timeout_ms, tags, idempotency_key, retry_delay, retry_backoff,
       retry_delay_max, progress, CASE WHEN %(values)s::bool THEN output::text END, group_id, dead_letter_job_type, dead_lettered_at,
       dead_letter_job_id, depends_on, depends_on_tags, run_anyway, blocked AND status IN ('pending', 'waiting'), unique_key,
       CASE WHEN status = 'waiting' THEN wait_until END, CASE WHEN status = 'waiting' THEN wait_token_id END
FROM {schema}.job_queue
WHERE (%(id)s::bigint IS NULL OR id = %(id)s::bigint)
  AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s::bigint)
  AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
  AND (cardinality(%(statuses)s::text[]) > 1 OR %(statuses)s::text[] IS NULL
       OR status = (%(statuses)s::text[])[1])  -- says that the index by status and id is in the order wanted
  AND (%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
  AND (%(priority)s::int IS NULL OR priority = %(priority)s::int)
  AND (%(all_tags)s::text[] IS NULL OR tags @> %(all_tags)s::text[])
  AND (%(within_tags)s::text[] IS NULL OR tags <@ %(within_tags)s::text[])
  AND (NOT %(untagged)s::bool OR COALESCE(cardinality(tags), 0) = 0)
  AND (%(any_tags)s::text[] IS NULL OR tags && %(any_tags)s::text[])
  AND (%(no_tags)s::text[] IS NULL OR NOT COALESCE(tags && %(no_tags)s::text[], FALSE))
  AND (%(run_after)s::timestamptz IS NULL OR COALESCE(scheduled_at, run_at) >= %(run_after)s::timestamptz)
  AND (%(run_before)s::timestamptz IS NULL OR COALESCE(scheduled_at, run_at) < %(run_before)s::timestamptz)
  AND (%(created_after)s::timestamptz IS NULL OR created_at >= %(created_after)s::timestamptz)
  AND (%(created_before)s::timestamptz IS NULL OR created_at < %(created_before)s::timestamptz)
  AND (%(group)s::text IS NULL OR group_id = %(group)s::text)
  AND (%(retry_due)s::bool IS NULL OR status <> 'failed' OR (next_attempt_at IS NOT NULL) = %(retry_due)s::bool)
  AND (%(error_contains)s::text IS NULL OR EXISTS (
       SELECT FROM jsonb_array_elements(error_history) e
       WHERE position(lower(%(error_contains)s::text) IN lower(e->>'message')) > 0))
ORDER BY id DESC LIMIT %(limit)s OFFSET %(offset)s
