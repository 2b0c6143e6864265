#!lua
-- KEYS h st sn tk te tj
-- Record a step, in place of one with the same number. ARGV: channel, id6, lease, seq, ms that it took, its record (JSON),
-- a newline, its result; and of a token that is made with it (or an empty text): its id, ms of its time limit (or an
-- empty text), its tags (JSON). Returns 1 if the lease holds.
local bad = probe()
if bad then return bad end
local id, seq = ARGV[2], tonumber(ARGV[4])
local h = held_by_lease(id, tonumber(ARGV[3]))
if not h then return 0 end
local field = id .. struct.pack('>I4', seq)
local before = redis.call('HGET', K_st, field)
local times = before and string.sub(before, 1, 12)
  or struct.pack('>I6I6', 0, math.max(0, now - math.floor(tonumber(ARGV[5]))))
redis.call('HSET', K_st, field, times .. pack6(now) .. ARGV[6])
count_steps(id, seq)
if ARGV[7] ~= '' and redis.call('HEXISTS', K_tk, ARGV[7]) == 0 then new_token(ARGV[7], id, tonumber(ARGV[8]), ARGV[9]) end
if not has(h, F_STEPS) then
  set_flag(h, F_STEPS)
  redis.call('HSET', K_h, id, encode(h))
end
return 1
