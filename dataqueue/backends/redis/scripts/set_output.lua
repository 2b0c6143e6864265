-- ARGV: channel, id6, lease, output. Returns 1 if the lease holds.
local id = ARGV[2]
local h = held_by_lease(id, tonumber(ARGV[3]))
if not h then return 0 end
redis.call('HSET', K_o, id, ARGV[4])
return 1
