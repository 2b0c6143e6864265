#!lua flags=allow-oom
-- KEYS h rd dl ix ls gr pk tk te to tw lw
-- Tokens whose time is over. ARGV: channel, how many at most. Returns how many there were.
local bad = probe()
if bad then return bad end
local tokens = redis.call('ZRANGEBYSCORE', K_te, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
for _, token in ipairs(tokens) do
  local stored = redis.call('HGET', K_tk, token)
  if stored then answer_token(token, stored, T_TIMED_OUT, '') else redis.call('ZREM', K_te, token) end
end
return #tokens
