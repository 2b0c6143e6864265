-- Settings of a claim's transaction, and whether limits or groups decide about these types. jit compiles for half a
-- second what runs in one millisecond; sequential and bitmap scans look cheap on a small or freshly filled table, and
-- read everything once it has grown. A worker that is frozen between the statements of a transaction keeps its locks, and
-- nobody can take its jobs back: the server ends it. (The other timeouts do not count the wait for a pipeline's next
-- message.)
SELECT EXISTS (SELECT FROM {schema}.dataqueue_limits WHERE job_type = '' OR job_type = ANY (%(job_types)s::varchar[]))
           OR EXISTS (SELECT FROM {schema}.dataqueue_workers
                      WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now()),
       set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true),
       CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN set_config('transaction_timeout', '20s', true) END
