#!lua flags=allow-oom
-- KEYS h s ev rd dl ix ls gr pk dp un cq uq lw lf
-- Cancel what has not begun; ask the worker where it runs. ARGV: channel, id6, metadata of the event.
local bad = probe()
if bad then return bad end
local id = ARGV[2]
local data = redis.call('HGET', K_h, id)
if not data then return 'missing' end
local h = decode(data)
if h.status == S_PROCESSING then
  if h.cancel_req == 0 then
    h.cancel_req = now
    log_event(h, id, E_CANCEL_REQUESTED, ARGV[3])
  end
  h.updated = now
  redis.call('HSET', K_h, id, encode(h))
  redis.call('PUBLISH', CHANNEL, 'cancel ' .. name_of(id))
  return 'requested'
end
if h.status == S_PENDING or h.status == S_WAITING or (h.status == S_FAILED and h.next_at > 0) then
  unlink(h, id)
  h.status, h.cancelled, h.next_at = S_CANCELLED, now, 0
  log_event(h, id, E_CANCELLED, ARGV[3])
  link(h, id)
  flush()
  -- In line it held a place that its group's next may need.
  if h.group ~= '' and free_places(h.group, 1) then tell_work(now) end
  tell_finished({ id })
  release_unique(h, id)
  if has(h, F_DEPENDANTS) then
    local _, work = resolve({ id })
    if work then tell_work(now) end
  end
  return 'changed'
end
return 'unchanged'
