WITH quiet AS (DELETE FROM {schema}.dataqueue_listeners WHERE topic = 'work' AND id = %(id)s)
DELETE FROM {schema}.dataqueue_workers WHERE id = %(id)s
