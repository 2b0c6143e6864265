DELETE FROM {schema}.dataqueue_listeners WHERE (topic = %(topic)s AND id = %(id)s) OR until < now() - interval '1 hour'
