#!lua flags=allow-oom
-- KEYS h o
-- ARGV: channel, id6, lease, output. Returns 1 if the lease holds.
local bad = probe()
if bad then return bad end
local h = held_by_lease(ARGV[2], tonumber(ARGV[3]))
if not h then return 0 end
h.updated = now
redis.call('HSET', K_o, ARGV[2], ARGV[4])
redis.call('HSET', K_h, ARGV[2], encode(h))
return 1
