-- Tokens whose time is over; what somebody has in hand is left to him.
UPDATE {schema}.waitpoints SET status = 'timed_out', completed_at = now()
WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.waitpoints WHERE status = 'waiting' AND timeout_at IS NOT NULL AND timeout_at <= now()
    ORDER BY timeout_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED))
RETURNING id
