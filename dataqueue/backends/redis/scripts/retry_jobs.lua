#!lua flags=allow-oom
-- KEYS h s o ev rd dl ix ls gr pk dp un cq uq lw lf
-- Run again, now, by a person's wish: at least one more attempt is granted. ARGV: channel, id6 of each job, the states
-- (one byte each) from which to do so, whether failed ones that are tried again by themselves are left out (0/1),
-- metadata of the events. Returns a letter for each: changed, unchanged, missing.
local bad = probe()
if bad then return bad end
settle_all()
local answer, again, dependents = {}, false, {}
for n, job in ipairs(heads_of(ARGV[2])) do
  local id, h = job.id, job.h
  if not h then
    answer[n] = 'm'
  elseif string.find(ARGV[3], string.char(h.status), 1, true)
      and (h.status == S_FAILED or h.status == S_CANCELLED or h.status == S_COMPLETED)
      and not (ARGV[4] == '1' and h.status == S_FAILED and h.next_at > 0) then
    run_again(h, id, ARGV[5])
    if has(h, F_DEPENDS) then dependents[#dependents + 1] = id end
    again, answer[n] = true, 'c'
  else
    answer[n] = 'u'
  end
end
flush()
for _, id in ipairs(dependents) do wait_again(id) end
if again then tell_work(now) end
return table.concat(answer)
