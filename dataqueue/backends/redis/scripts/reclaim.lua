-- Take jobs back from workers whose lease is over. The attempt counts; the last one fails the job.
-- ARGV: channel, limit. Returns id6, type name, worker and status of each.
local bad = probe()
if bad then return bad end
local limit, answer, finished, wake = tonumber(ARGV[2]), {}, {}, false
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K_wl, '-inf', now, 'LIMIT', 0, 50)) do
  local held = redis.call('ZRANGEBYLEX', K_ls, '[' .. worker .. '\0', '(' .. worker .. '\1', 'LIMIT', 0, limit - #answer / 4)
  for _, member in ipairs(held) do
    local id = string.sub(member, -6)
    local data = redis.call('HGET', K_h, id)
    local h = data and decode(data)
    if not h or h.status ~= S_PROCESSING or h.worker ~= worker then
      redis.call('ZREM', K_ls, member)
    else
      unlink(h, id)
      local metadata = cjson.encode({ worker = worker })
      local entry = cjson.encode({ message = 'Worker ' .. worker .. ' was lost during attempt ' .. h.attempts })
      h.next_at = 0
      redis.call('HDEL', K_o, id)
      if h.cancel_req > 0 then
        h.status, h.cancelled = S_CANCELLED, now
        log_event(h, id, E_CANCELLED, metadata)
        finished[#finished + 1] = id
      elseif h.attempts < h.max then
        h.status = S_PENDING
        log_event(h, id, E_RECLAIMED, metadata)
        wake = true
      else
        h.status, h.failed, h.reason = S_FAILED, now, R_WORKER_LOST
        log_event(h, id, E_FAILED, cjson.encode({ worker = worker, failureReason = 'worker_lost' }))
        finished[#finished + 1] = id
      end
      add_error(id, string.format('%.0f ', now) .. entry)
      release_lease(h)
      link(h, id)
      answer[#answer + 1] = id
      answer[#answer + 1] = redis.call('HGET', K_tn, h.type)
      answer[#answer + 1] = worker
      answer[#answer + 1] = h.status
    end
  end
  if #held < limit - #answer / 4 and #redis.call('ZRANGEBYLEX', K_ls, '[' .. worker .. '\0', '(' .. worker .. '\1', 'LIMIT', 0, 1) == 0
     and tonumber(redis.call('ZSCORE', K_wl, worker)) < now - 86400000 then
    redis.call('ZREM', K_wl, worker)
    redis.call('HDEL', K_wk, worker)
  end
  if #answer / 4 >= limit then break end
end
if wake then tell_work(now) end
tell_finished(finished)
return answer
