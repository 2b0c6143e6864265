-- Let this holder have a role from now on: it is free, its holder's lease is over, or this is its holder.
INSERT INTO {schema}.dataqueue_roles AS r (role, holder, lease_expires_at)
VALUES (%(role)s, %(holder)s, now() + %(seconds)s * interval '1 second')
ON CONFLICT (role) DO UPDATE SET holder = EXCLUDED.holder, lease_expires_at = EXCLUDED.lease_expires_at
WHERE r.holder = EXCLUDED.holder OR r.lease_expires_at <= now()
