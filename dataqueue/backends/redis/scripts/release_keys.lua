#!lua flags=allow-oom
-- KEYS h s id
-- Free idempotency keys of jobs that ended by a moment. ARGV: channel, that moment (ms), the keys. Returns how many.
local bad = probe()
if bad then return bad end
local before, count = tonumber(ARGV[2]), 0
for n = 3, #ARGV do
  local id = redis.call('HGET', K_id, ARGV[n])
  local data = id and redis.call('HGET', K_h, id)
  local h = data and decode(data)
  if h and is_finished(h) then
    local ended = h.status == S_COMPLETED and h.completed or h.status == S_FAILED and h.failed or h.cancelled
    if (ended > 0 and ended or h.updated) <= before then
      redis.call('HSET', K_s, id, with_option(redis.call('HGET', K_s, id), '"key":null'))
      redis.call('HDEL', K_id, ARGV[n])
      count = count + 1
    end
  end
end
return count
