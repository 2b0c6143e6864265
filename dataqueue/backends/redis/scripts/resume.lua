#!lua flags=allow-oom
-- KEYS cf lw
-- Claim jobs of this type (the empty name: of all types) again. ARGV: channel, type.
local bad = probe()
if bad then return bad end
local was_paused = redis.call('HDEL', K_cf, 'p' .. ARGV[2])
if was_paused == 1 then tell_work(now) end
return was_paused
