#!lua
-- KEYS m h s o ev rd dl ix ls gr pk ty tn dp un cq uq st sn tw lw lf
-- Let the job that a dead letter tells of run again; where it is gone, add another. ARGV: channel, id6 of the letter, id6 of
-- that job, its type, metadata of its event (JSON), JSON of whose wish, max attempts and spec of another. Returns the id
-- of what runs, 0 if nothing was changed.
local bad = probe()
if bad then return bad end
local letter, source = ARGV[2], ARGV[3]
local data = redis.call('HGET', K_h, letter)
local l = data and decode(data)
if not l or l.status == S_PROCESSING or options_of(redis.call('HGET', K_s, letter)).rdn then return 0 end
data = redis.call('HGET', K_h, source)
local id
if data then
  local h = decode(data)
  local mine = options_of(redis.call('HGET', K_s, source)).dli == tonumber(name_of(letter))
  if not mine or not (h.status == S_CANCELLED or h.status == S_FAILED) then return 0 end
  settle_all()
  h = decode(redis.call('HGET', K_h, source))
  run_again(h, source, ARGV[5])
  flush()
  if has(h, F_DEPENDS) then wait_again(source) end
  id = source
else
  local number, d = type_number(ARGV[4]), nil
  id = pack6(redis.call('HINCRBY', K_m, 'id', 1))
  d = { type = number, prio = 2147483647, status = S_PENDING }
  push(put.h, id, fresh_head(number, d.prio, tonumber(ARGV[7]), now, '', F_DEAD, ARGV[5]))
  redis.call('HSET', K_s, id, ARGV[8])
  push(put.ix, 0, index_member(d, id))
  push(put.rd, 0, ready_member(d, id, now))
end
redis.call('HSET', K_s, letter, with_option(redis.call('HGET', K_s, letter), '"rdn":' .. name_of(id)))
local told = '{"jobId": ' .. name_of(id) .. ARGV[6] .. '}'
if is_finished(l) then
  log_event(l, letter, E_REDRIVEN, told)
  l.updated = now
  push(put.h, letter, encode(l))
  flush()
else
  unlink(l, letter)
  if l.status == S_WAITING then
    leave_wait(l, letter)
    redis.call('HDEL', K_o, letter)
  end
  l.status, l.cancelled, l.next_at = S_CANCELLED, now, 0
  log_event(l, letter, E_REDRIVEN, told)
  link(l, letter)
  flush()
  tell_finished({ letter })
  release_unique(l, letter)
  if has(l, F_DEPENDANTS) then resolve({ letter }) end
end
tell_work(now)
return tonumber(name_of(id))
