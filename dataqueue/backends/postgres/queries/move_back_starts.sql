-- For dataqueue.testing.advance_clock: the starts that count for a rate.
UPDATE {schema}.dataqueue_limits SET starts = (
    SELECT jsonb_agg(jsonb_build_array((start->>0)::float8 - extract(epoch FROM %(by)s) * 1000, start->1) ORDER BY n)
    FROM jsonb_array_elements(starts) WITH ORDINALITY AS s (start, n))
WHERE jsonb_array_length(starts) > 0
