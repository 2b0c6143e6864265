-- Part of claim_settings.sql and record_settings.sql, local to the transaction: a session's settings would leak through a
-- transaction-pooling PgBouncer. jit compiles for half a second what runs in one millisecond; sequential and bitmap
-- scans look cheap to the planner on a small or freshly filled table, and read everything once it has grown. A worker
-- that is frozen between the statements of a transaction keeps its locks, and nobody can take its jobs back: the server
-- ends it. (The other timeouts do not count the wait for a pipeline's next message.)
set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', '20s', true) END
