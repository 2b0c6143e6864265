#!lua flags=allow-oom
-- KEYS h s o ev rd dl ix ls gr pk dp un uq lw
-- Run again, now, by a person's wish: at least one more attempt is granted. ARGV: channel, id6, force (0/1),
-- metadata of the event.
local bad = probe()
if bad then return bad end
local id = ARGV[2]
local data = redis.call('HGET', K_h, id)
if not data then return 'missing' end
local h = decode(data)
if not (h.status == S_FAILED or h.status == S_CANCELLED or (ARGV[3] == '1' and h.status == S_COMPLETED)) then
  return 'unchanged'
end
unlink(h, id)
h.status, h.run_at, h.max = S_PENDING, now, math.max(h.max, h.attempts + 1)
h.next_at, h.reason, h.completed, h.progress, h.retried = 0, 0, 0, NO_PROGRESS, now
redis.call('HDEL', K_o, id)
log_event(h, id, E_RETRIED, ARGV[4])
if h.flags > 0 then
  wait_again(h, id)
  if has(h, F_UNIQUE) then redis.call('ZADD', K_uq, 0, unique_member(redis.call('HGET', K_s, id), id)) end
end
link(h, id)
flush()
tell_work(now)
return 'changed'
