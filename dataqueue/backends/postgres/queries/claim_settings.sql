-- Settings of a claim's transaction, and whether limits or groups decide about these types.
SELECT EXISTS (SELECT FROM {schema}.dataqueue_limits WHERE job_type = '' OR job_type = ANY (%(job_types)s::varchar[]))
           OR EXISTS (SELECT FROM {schema}.dataqueue_workers
                      WHERE group_concurrency IS NOT NULL AND lease_expires_at >= now()),
{settings}
