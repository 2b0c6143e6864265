-- Give up a role, if this is its holder.
DELETE FROM {schema}.dataqueue_roles WHERE role = %(role)s AND holder = %(holder)s
