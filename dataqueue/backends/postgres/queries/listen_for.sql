INSERT INTO {schema}.dataqueue_listeners (topic, id, until)
VALUES (%(topic)s, %(id)s, now() + %(seconds)s * interval '1 second')
ON CONFLICT (topic, id) DO UPDATE SET until = EXCLUDED.until
