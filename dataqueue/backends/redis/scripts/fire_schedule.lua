#!lua
-- KEYS m h s rd ix tg ty tn lw cr cd
-- Add the jobs of these fires and advance the schedule. No job is added while the last one is unfinished, unless they may
-- overlap. ARGV: channel, id, expected version, next run (ms, '' for never), whether they may overlap (1/0), type name, priority
-- (inverted), max attempts, group, dead letter (1/0), spec, number of tags, tags, then for each fire what its event tells (JSON).
-- Returns 0 if another was faster, else the ids of the jobs in a list.
local bad = probe()
if bad then return bad end
local id, stored = ARGV[2], redis.call('HGET', K_cr, 's' .. ARGV[2])
local state = stored and cjson.decode(stored)
if not state or state.v ~= tonumber(ARGV[3]) or state.st ~= 'active' then return 0 end
local reason = 'missed'
if state.lj and ARGV[5] == '0' then
  local data = redis.call('HGET', K_h, pack6(tonumber(state.lj)))
  if data and not is_finished(decode(data)) then reason = 'overlap' end
end
local added, tags = {}, tonumber(ARGV[12])
if reason ~= 'overlap' then
  for n = 13 + tags, #ARGV do
    local type = type_number(ARGV[6])
    local job = redis.call('HINCRBY', K_m, 'id', 1)
    local packed, h = pack6(job), { type = type, prio = tonumber(ARGV[7]), status = S_PENDING }
    redis.call('HSET', K_h, packed,
      fresh_head(type, h.prio, tonumber(ARGV[8]), now, ARGV[9], ARGV[10] == '1' and F_DEAD or 0, ARGV[n]))
    redis.call('HSET', K_s, packed, ARGV[11])
    redis.call('ZADD', K_ix, 0, index_member(h, packed))
    redis.call('ZADD', K_rd, 0, ready_member(h, packed, now))
    for k = 13, 12 + tags do redis.call('ZADD', K_tg, 0, ARGV[k] .. '\0' .. packed) end
    added[#added + 1] = job
    state.le, state.lj = now, string.format('%.0f', job)
  end
end
if #added == 0 then state.sk, state.sr = now, reason end
state.v, state.up, state.pb = state.v + 1, now, nil
if ARGV[4] == '' then
  state.nx = nil
  redis.call('ZREM', K_cd, id)
else
  state.nx = tonumber(ARGV[4])
  redis.call('ZADD', K_cd, ARGV[4], id)
end
redis.call('HSET', K_cr, 's' .. id, cjson.encode(state))
if #added > 0 then tell_work(now) end
return added
