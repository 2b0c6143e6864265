#!lua flags=allow-oom
-- KEYS lw lf
-- ARGV: channel, topic, listener, seconds. Those whose time is long over are forgotten on the way.
local key = ARGV[2] == 'work' and K_lw or K_lf
redis.call('ZADD', key, now + tonumber(ARGV[4]) * 1000, ARGV[3])
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - 3600000)
return 1
