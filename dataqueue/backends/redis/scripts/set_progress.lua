#!lua flags=allow-oom
-- KEYS h
-- ARGV: channel, id6, lease, percent. Returns 1 if the lease holds.
local h = held_by_lease(ARGV[2], tonumber(ARGV[3]))
if not h then return 0 end
h.progress, h.updated = tonumber(ARGV[4]), now
redis.call('HSET', K_h, ARGV[2], encode(h))
return 1
