#!lua flags=allow-oom
-- KEYS cr cd
-- Forget a schedule. ARGV: channel, id, name. Returns 1, or 0 if there is no such schedule.
local bad = probe()
if bad then return bad end
local id = ARGV[2]
if redis.call('HDEL', K_cr, 's' .. id, 'd' .. id) == 0 then return 0 end
redis.call('HDEL', K_cr, 'n' .. ARGV[3])
redis.call('ZREM', K_cd, id)
return 1
