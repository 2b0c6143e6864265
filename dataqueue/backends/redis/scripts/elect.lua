#!lua flags=allow-oom
-- KEYS m
-- Let this holder have a role from now on: it is free, its holder's lease is over, or this is its holder. ARGV: channel,
-- role, holder, ms. Returns whether it has it (1/0).
local bad = probe()
if bad then return bad end
local field = 'role:' .. ARGV[2]
local ends, holder = string.match(redis.call('HGET', K_m, field) or '0 ', '^(%d+) (.*)$')
if holder ~= ARGV[3] and tonumber(ends) > now then return 0 end
redis.call('HSET', K_m, field, string.format('%.0f ', now + tonumber(ARGV[4])) .. ARGV[3])
return 1
