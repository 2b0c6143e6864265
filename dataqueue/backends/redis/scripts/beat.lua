#!lua flags=allow-oom
-- KEYS h wk wl gl
-- Renew a worker's lease and ask about its jobs. ARGV: channel, worker, info (JSON), lease ms, group limit or 0, then id6 and lease of each.
-- Returns for each job: 0 lost, 1 held, 2 to be cancelled.
local bad = probe()
if bad then return bad end
local known = redis.call('HGET', K_wk, ARGV[2])
local since = known and string.match(known, '^%d+') or string.format('%.0f', now)
local answer = {}
for n = 6, #ARGV, 2 do
  local h = held_by_lease(ARGV[n], tonumber(ARGV[n + 1]))
  answer[#answer + 1] = not h and 0 or h.cancel_req > 0 and 2 or 1
end
redis.call('HSET', K_wk, ARGV[2], since .. ' ' .. ARGV[3])
redis.call('ZADD', K_wl, now + tonumber(ARGV[4]), ARGV[2])
limit_groups(ARGV[2], ARGV[5])
return answer
