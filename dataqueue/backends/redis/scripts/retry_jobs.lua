#!lua flags=allow-oom
-- KEYS h o ev rd dl ix ls gr pk lw
-- Run again, now, by a person's wish: at least one more attempt is granted. ARGV: channel, id6 of each job, the states
-- (one byte each) from which to do so, whether failed ones that are tried again by themselves are left out (0/1),
-- metadata of the events. Returns a letter for each: changed, unchanged, missing.
local bad = probe()
if bad then return bad end
local answer, again = {}, {}
for n, job in ipairs(heads_of(ARGV[2])) do
  local id, h = job.id, job.h
  if not h then
    answer[n] = 'm'
  elseif string.find(ARGV[3], string.char(h.status), 1, true)
      and (h.status == S_FAILED or h.status == S_CANCELLED or h.status == S_COMPLETED)
      and not (ARGV[4] == '1' and h.status == S_FAILED and h.next_at > 0) then
    unlink(h, id)
    h.status, h.run_at, h.max = S_PENDING, now, math.max(h.max, h.attempts + 1)
    h.next_at, h.reason, h.completed, h.progress, h.retried = 0, 0, 0, NO_PROGRESS, now
    log_event(h, id, E_RETRIED, ARGV[5])
    link(h, id)
    again[#again + 1], answer[n] = id, 'c'
  else
    answer[n] = 'u'
  end
end
in_pieces('HDEL', K_o, again)
flush()
if #again > 0 then tell_work(now) end
return table.concat(answer)
