-- A worker leaves. What it still holds is reclaimed at once by whoever looks next. ARGV: channel, worker.
local worker = ARGV[2]
redis.call('ZREM', K_lw, worker)
if #redis.call('ZRANGEBYLEX', K_ls, '[' .. worker .. '\0', '(' .. worker .. '\1', 'LIMIT', 0, 1) > 0 then
  redis.call('ZADD', K_wl, now, worker)
  return 0
end
redis.call('ZREM', K_wl, worker)
redis.call('HDEL', K_wk, worker)
return 1
