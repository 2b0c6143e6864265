#!lua flags=allow-oom
-- KEYS m
-- Give up a role, if this is its holder. ARGV: channel, role, holder.
local bad = probe()
if bad then return bad end
local field = 'role:' .. ARGV[2]
if string.match(redis.call('HGET', K_m, field) or '', '^%d+ (.*)$') == ARGV[3] then redis.call('HDEL', K_m, field) end
