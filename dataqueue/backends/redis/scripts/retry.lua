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
run_again(h, id, ARGV[4])
flush()
tell_work(now)
return 'changed'
