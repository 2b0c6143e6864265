#!lua
-- KEYS tk te tj
-- A token of no job. ARGV: channel, its id, ms of its time limit (or an empty text), its tags (JSON). Returns it.
local bad = probe()
if bad then return bad end
new_token(ARGV[2], nil, tonumber(ARGV[3]), ARGV[4])
return redis.call('HGET', K_tk, ARGV[2])
