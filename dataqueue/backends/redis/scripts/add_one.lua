#!lua
-- KEYS m h s rd ix ty lw
-- Add one job that is due now, without tags and key: the common case, made short.
-- ARGV: channel, type name, priority (inverted), max attempts, spec.
-- Returns the id, or 0 for a type that was never added before: that is for add.lua.
local bad = probe()
if bad then return bad end
local number = tonumber(redis.call('HGET', K_ty, ARGV[2]))
if not number then return 0 end
local job = redis.call('HINCRBY', K_m, 'id', 1)
local id, h = pack6(job), { type = number, prio = tonumber(ARGV[3]), status = S_PENDING }
redis.call('HSET', K_h, id, fresh_head(number, h.prio, tonumber(ARGV[4]), now, '', 0, ''))
redis.call('HSET', K_s, id, ARGV[5])
redis.call('ZADD', K_ix, 0, index_member(h, id))
redis.call('ZADD', K_rd, 0, ready_member(h, id, now))
tell_work(now)
return job
