-- For dataqueue.testing.advance_clock: when attempts failed, which is kept as text.
UPDATE {schema}.job_queue SET error_history = (
    SELECT jsonb_agg(entry || jsonb_build_object('timestamp',
        to_char(((entry->>'timestamp')::timestamptz - %(by)s) AT TIME ZONE 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) ORDER BY n)
    FROM jsonb_array_elements(error_history) WITH ORDINALITY AS e (entry, n))
WHERE jsonb_array_length(error_history) > 0
