-- Settings of a transaction that records outcomes, or frees places. Outcomes are joined to their jobs by id; a plan that
-- was cached while the table was small would hash the whole table instead until the next autovacuum (100 completions at
-- a million rows: 200 ms, not 1.5).
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
{settings}
