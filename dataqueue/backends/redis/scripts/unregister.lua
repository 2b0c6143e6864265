#!lua flags=allow-oom
-- KEYS wk wl ls gl lw
-- A worker leaves. What it still holds is reclaimed at once by whoever looks next. ARGV: channel, worker.
local bad = probe()
if bad then return bad end
local worker = ARGV[2]
redis.call('ZREM', K_lw, worker)
redis.call('HDEL', K_wk, worker)
redis.call('ZREM', K_gl, worker)
if #held_members(worker, 1) > 0 then
  redis.call('ZADD', K_wl, now, worker)
  return 0
end
redis.call('ZREM', K_wl, worker)
return 1
