-- What a job has done so far, with the tokens that it waits for, and the clock.
SELECT s.seq, s.name, s.kind, s.result::text, s.until, s.token_id, s.job_ids, s.place, s.attempts, s.started_at, s.done_at,
       now(), w.id, w.status, w.output::text, w.error, w.timeout_at, w.created_at, w.completed_at, w.tags, w.job_id
FROM (SELECT) one
LEFT JOIN {schema}.dataqueue_steps s ON s.job_id = %(job_id)s
LEFT JOIN {schema}.waitpoints w ON w.id = s.token_id AND s.kind = 'token' AND s.done_at IS NULL
ORDER BY s.seq
