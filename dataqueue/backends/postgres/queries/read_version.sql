SELECT max(version), bool_or(shared) FROM {schema}.dataqueue_migrations
