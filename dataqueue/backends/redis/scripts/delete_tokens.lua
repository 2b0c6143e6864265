#!lua flags=allow-oom
-- KEYS tk to
-- Tokens of no job that were answered by a moment. ARGV: channel, that moment (ms), how many at most. Returns how many.
local bad = probe()
if bad then return bad end
local tokens = redis.call('ZRANGEBYSCORE', K_to, '-inf', tonumber(ARGV[2]), 'LIMIT', 0, tonumber(ARGV[3]))
in_pieces('HDEL', K_tk, tokens)
in_pieces('ZREM', K_to, tokens)
return #tokens
