#!lua flags=allow-oom
-- KEYS m h s o er ev rd dl ix ty tn wk wl ls gr pk gl dp un cq uq lw lf
-- Take jobs back from workers whose lease is over. The attempt counts; the last one fails the job. A job that
-- was claimed after that is left for one lease more: its worker was frozen and is about to renew its own.
-- ARGV: channel, limit. Returns id6, type name, worker and status of each.
local bad = probe()
if bad then return bad end
local left, answer, finished, no_outputs, wake, freed, ended = tonumber(ARGV[2]), {}, {}, {}, false, {}, {}

local function take_back(member, worker, ends, lease)
  local id = string.sub(member, -6)
  local data = redis.call('HGET', K_h, id)
  local h = data and decode(data)
  if not h or h.status ~= S_PROCESSING or h.worker ~= worker then
    push(gone.ls, member)
    return
  end
  if ends and h.locked > ends and h.locked > now - lease then return end
  unlink(h, id)
  local metadata = cjson.encode({ worker = worker })
  h.next_at = 0
  no_outputs[#no_outputs + 1] = id
  local message = cjson.encode('Worker ' .. worker .. ' was lost during attempt ' .. h.attempts)
  add_error(id, '{"message": ' .. message .. '}')
  if h.cancel_req > 0 then
    h.status, h.cancelled = S_CANCELLED, now
    log_event(h, id, E_CANCELLED, metadata)
  elseif h.attempts < h.max then
    h.status = S_PENDING
    log_event(h, id, E_RECLAIMED, metadata)
    wake = true
  else
    h.status, h.failed, h.reason = S_FAILED, now, R_WORKER_LOST
    local told = { worker = worker, failureReason = 'worker_lost' }
    if has(h, F_DEAD) then
      told.deadLetterJobId = bury(h, id, message, '"worker_lost"')
      wake = true
    end
    log_event(h, id, E_FAILED, cjson.encode(told))
  end
  if h.status ~= S_PENDING then
    finished[#finished + 1] = id
    release_unique(h, id)
    if has(h, F_DEPENDANTS) then ended[#ended + 1] = id end
  end
  if h.group ~= '' then freed[h.group] = (freed[h.group] or 0) + 1 end
  release_lease(h)
  link(h, id)
  push(answer, id, redis.call('HGET', K_tn, h.type))
  push(answer, worker, h.status)
end

-- From one worker that holds jobs to the next, whoever else is known: the lost ones cannot hide behind many.
local from = '-'
while left > 0 do
  local first = redis.call('ZRANGEBYLEX', K_ls, from, '+', 'LIMIT', 0, 1)[1]
  if not first then break end
  local worker = string.sub(first, 1, -8)
  local ends = tonumber(redis.call('ZSCORE', K_wl, worker))
  if not ends or ends <= now then
    local held, info = held_members(worker, left), redis.call('HGET', K_wk, worker)
    local lease = info and cjson.decode(string.match(info, ' (.*)')).lease_ms or 0
    for _, member in ipairs(held) do take_back(member, worker, ends, lease) end
    left = left - #held
  end
  from = '(' .. worker .. '\1'
end
in_pieces('HDEL', K_o, no_outputs)
flush()
if #ended > 0 then
  local _, work = resolve(ended)
  wake = wake or work
end
if resume_resolving() then wake = true end
for group, places in pairs(freed) do
  if free_places(group, places) then wake = true end
end
-- Parked jobs whose group has places all the same: its limit was raised, or the worker that asked for it is gone. Some
-- groups each time, in turn.
local most, swept = group_limit(), redis.call('HGET', K_m, 'swept') or ''
from = swept == '' and '-' or '(' .. swept .. '\1'
for n = 1, 200 do
  local first = redis.call('ZRANGEBYLEX', K_pk, from, '+', 'LIMIT', 0, 1)[1]
  swept = first and string.sub(first, 1, -20) or ''
  if not first then break end
  if free_places(swept, most and most - running_in(swept) or 500) then wake = true end
  from = '(' .. swept .. '\1'
end
if swept ~= '' then redis.call('HSET', K_m, 'swept', swept) else redis.call('HDEL', K_m, 'swept') end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K_wl, '-inf', now - 86400000, 'LIMIT', 0, 50)) do
  if #held_members(worker, 1) == 0 then
    redis.call('ZREM', K_wl, worker)
    redis.call('HDEL', K_wk, worker)
    redis.call('ZREM', K_gl, worker)
  end
end
if wake then tell_work(now) end
tell_finished(finished)
return answer
