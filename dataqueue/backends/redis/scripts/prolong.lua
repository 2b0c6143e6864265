#!lua flags=allow-oom
-- KEYS h ev
-- An attempt has been given more time. Its worker keeps the time; this is for those who look.
-- ARGV: channel, id6, lease, ms from now. Returns 1 if the lease holds.
local h = held_by_lease(ARGV[2], tonumber(ARGV[3]))
if not h then return 0 end
h.updated = now
log_event(h, ARGV[2], E_PROLONGED, string.format('{"until": %.0f}', now + tonumber(ARGV[4])))
redis.call('HSET', K_h, ARGV[2], encode(h))
return 1
