#!lua
-- KEYS cf
-- The limits of types, as the worker that starts last knows them. ARGV: channel, then for each its name, the most that
-- run at a time and its rate ('count ms'), both empty for none.
local bad = probe()
if bad then return bad end
for n = 2, #ARGV, 3 do
  local name = ARGV[n]
  if ARGV[n + 1] ~= '' then redis.call('HSET', K_cf, 'm' .. name, ARGV[n + 1]) else redis.call('HDEL', K_cf, 'm' .. name) end
  if ARGV[n + 2] ~= '' then
    redis.call('HSET', K_cf, 'r' .. name, ARGV[n + 2])
  else
    redis.call('HDEL', K_cf, 'r' .. name, 's' .. name)
  end
end
return 1
