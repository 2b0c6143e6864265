-- ARGV: channel, id6, lease, percent. Returns 1 if the lease holds.
local id = ARGV[2]
local h = held_by_lease(id, tonumber(ARGV[3]))
if not h then return 0 end
h.progress, h.updated = tonumber(ARGV[4]), now
redis.call('HSET', K_h, id, encode(h))
return 1
