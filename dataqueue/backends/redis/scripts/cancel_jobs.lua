#!lua flags=allow-oom
-- KEYS h s o ev rd dl ix ls gr pk dp un cq uq st sn tw lw lf
-- Cancel what has not begun; ask the workers where it runs. ARGV: channel, id6 of each job, the states (one byte each)
-- in which to cancel one, metadata of the events. Returns a letter for each (changed, requested,
-- unchanged, missing), and the jobs that were cancelled because they waited for one of these.
local bad = probe()
if bad then return bad end
local answer, left, asked, finished, ended, wake = {}, {}, {}, {}, {}, false
for n, job in ipairs(heads_of(ARGV[2])) do
  local id, h = job.id, job.h
  if not h then
    answer[n] = 'm'
  elseif not string.find(ARGV[3], string.char(h.status), 1, true) then
    answer[n] = 'u'
  elseif h.status == S_PROCESSING then
    if h.cancel_req == 0 then
      h.cancel_req = now
      log_event(h, id, E_CANCEL_REQUESTED, ARGV[4])
    end
    h.updated = now
    push(put.h, id, encode(h))
    asked[#asked + 1], answer[n] = name_of(id), 'r'
  elseif h.status == S_PENDING or h.status == S_WAITING or (h.status == S_FAILED and h.next_at > 0) then
    unlink(h, id)
    if h.status == S_WAITING then
      leave_wait(h, id)
      redis.call('HDEL', K_o, id)
    end
    h.status, h.cancelled, h.next_at = S_CANCELLED, now, 0
    log_event(h, id, E_CANCELLED, ARGV[4])
    link(h, id)
    if h.group ~= '' then left[h.group] = (left[h.group] or 0) + 1 end
    if h.flags > 0 then
      release_unique(h, id)
      if has(h, F_DEPENDANTS) then ended[#ended + 1] = id end
    end
    finished[#finished + 1], answer[n] = id, 'c'
  else
    answer[n] = 'u'
  end
end
flush()
local cascaded = {}
if #ended > 0 then cascaded, wake = resolve(ended) end
for n, id in ipairs(cascaded) do cascaded[n] = (struct.unpack('>I6', id)) end
-- In line they held places that their groups' next may need.
for group, places in pairs(left) do
  if free_places(group, places) then wake = true end
end
if wake then tell_work(now) end
if #asked > 0 then redis.call('PUBLISH', CHANNEL, 'cancel ' .. table.concat(asked, ' ')) end
tell_finished(finished)
return { table.concat(answer), cascaded }
