-- Jobs that have failed, newest id first, without payloads; of the last error what tells causes apart. No more than
-- the newest 100,000 failed ones are looked at: there may be millions of old ones.
SELECT id, job_type, attempts, max_attempts, last_failed_at, next_attempt_at, failure_reason,
       left(error_history->-1->>'message', 4000), error_history->-1->>'type', error_history->-1->>'frame'
FROM (SELECT * FROM {schema}.job_queue WHERE status = 'failed' ORDER BY id DESC LIMIT 100000) newest
WHERE last_failed_at >= now() - %(seconds)s * interval '1 second'
  AND (%(job_type)s::text IS NULL OR job_type = %(job_type)s::text)
ORDER BY id DESC LIMIT %(limit)s
