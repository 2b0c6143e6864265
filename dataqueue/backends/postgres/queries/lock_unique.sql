-- Before find_unique.sql, in its transaction, which others that add these keys wait for; in one order.
SELECT pg_advisory_xact_lock(hash) FROM (
    SELECT DISTINCT hashtextextended('{channel} unique ' || key, 0) AS hash FROM unnest(%(keys)s::text[]) AS given (key)
    ORDER BY 1) hashes
