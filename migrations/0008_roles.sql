-- Who does what only one of many shall do: a lease for each role.
CREATE TABLE IF NOT EXISTS {schema}.dataqueue_roles (
    role             TEXT PRIMARY KEY,
    holder           TEXT NOT NULL,
    lease_expires_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
