#!lua
-- KEYS m cr cd
-- Add or change a schedule. ARGV: channel, id ('' to add), name, expected version, definition (JSON), state (JSON), next run
-- (ms, '' for none or not active). Returns the id; 0 if the name is taken, there is no such schedule, or another change was
-- faster. Whoever waits for the next fire is woken.
local bad = probe()
if bad then return bad end
local id, state = ARGV[2], cjson.decode(ARGV[6])
if id == '' then
  if redis.call('HEXISTS', K_cr, 'n' .. ARGV[3]) == 1 then return 0 end
  id = string.format('%.0f', redis.call('HINCRBY', K_m, 'schedule', 1))
  redis.call('HSET', K_cr, 'n' .. ARGV[3], id)
  state.cr = now
else
  local stored = redis.call('HGET', K_cr, 's' .. id)
  if not stored or cjson.decode(stored).v ~= tonumber(ARGV[4]) then return 0 end
end
state.v, state.up = tonumber(ARGV[4]) + 1, now
redis.call('HSET', K_cr, 'd' .. id, ARGV[5], 's' .. id, cjson.encode(state))
if ARGV[7] == '' then redis.call('ZREM', K_cd, id) else redis.call('ZADD', K_cd, ARGV[7], id) end
redis.call('PUBLISH', CHANNEL, 'schedule')
return tonumber(id)
