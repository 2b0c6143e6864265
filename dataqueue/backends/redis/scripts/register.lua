#!lua flags=allow-oom
-- KEYS wk wl ls gl
-- Make a worker known, unless a live one has its name or a dead one's jobs still wait under it.
-- ARGV: channel, worker, info (JSON; kept behind the time of registering), lease ms, group limit or 0. Returns 1 or 0.
local bad = probe()
if bad then return bad end
local worker = ARGV[2]
local ends = tonumber(redis.call('ZSCORE', K_wl, worker))
if ends and ends > now then return 0 end
if #held_members(worker, 1) > 0 then return 0 end
redis.call('HSET', K_wk, worker, string.format('%.0f ', now) .. ARGV[3])
redis.call('ZADD', K_wl, now + tonumber(ARGV[4]), worker)
limit_groups(worker, ARGV[5])
return 1
