-- After end_token.sql, expire_tokens.sql or those that delete jobs, in the same transaction: who waits for one of these tokens goes on. It costs no attempt,
-- so the job stays 'waiting' until it is claimed.
WITH done AS (
    UPDATE {schema}.job_queue SET wait_token_id = NULL, wait_until = now(), due = TRUE, updated_at = now()
    WHERE wait_token_id = ANY (%(ids)s::text[]) AND status = 'waiting'
    RETURNING id
)
SELECT (SELECT count(*) FROM done),
       (SELECT pg_notify('{channel}', 'work')
        WHERE EXISTS (SELECT FROM done)
          AND EXISTS (SELECT FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND until > now()))
