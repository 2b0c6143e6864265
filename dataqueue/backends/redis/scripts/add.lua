-- Add jobs, all or none, in their order. ARGV: channel, count, then for each job:
-- type name, priority (inverted), run_at ms (or ''), delay ms, max attempts, key (or ''), metadata, spec, tag count, tags...
-- Returns id and created (1/0) of each.
local bad = probe()
if bad then return bad end
local at, count = 2, tonumber(ARGV[2])
local answer, types, earliest, taken = {}, {}, nil, {}
local next_id = tonumber(redis.call('HGET', K_m, 'id') or '0')
local heads, specs, index, ready, delayed = {}, {}, {}, {}, {}
local first = next_id
for _ = 1, count do
  local name, prio, run_at, delay, max, key, metadata, spec, tags =
    ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), ARGV[at + 6],
    ARGV[at + 7], ARGV[at + 8], tonumber(ARGV[at + 9])
  at = at + 9
  local holder = key ~= '' and (taken[key] or redis.call('HGET', K_id, key)) or nil
  if holder then
    answer[#answer + 1] = (struct.unpack('>I6', holder))
    answer[#answer + 1] = 0
    at = at + tags
  else
    local number = types[name] or redis.call('HGET', K_ty, name)
    if not number then
      number = redis.call('HINCRBY', K_m, 'type', 1)
      redis.call('HSET', K_ty, name, number)
      redis.call('HSET', K_tn, number, name)
    end
    types[name] = tonumber(number)
    next_id = next_id + 1
    local id = pack6(next_id)
    if key ~= '' then
      taken[key] = id
      redis.call('HSET', K_id, key, id)
    end
    local due = run_at ~= '' and tonumber(run_at) or now + delay
    local h = { status = S_PENDING, reason = 0, progress = NO_PROGRESS, type = types[name], attempts = 0, max = max,
      prio = prio, lease = 0, run_at = due, next_at = 0, created = now, updated = now, started = 0, completed = 0,
      failed = 0, retried = 0, cancelled = 0, locked = 0, cancel_req = 0, worker = '',
      events = struct.pack('>I1I6I2', E_ADDED, now, #metadata) .. metadata }
    local n = #heads
    heads[n + 1], heads[n + 2] = id, encode(h)
    specs[n + 1], specs[n + 2] = id, spec
    index[n + 1], index[n + 2] = 0, index_member(h, id)
    if due <= now then
      ready[#ready + 1] = 0
      ready[#ready + 1] = ready_member(h, id, due)
    else
      delayed[#delayed + 1] = 0
      delayed[#delayed + 1] = delayed_member(h, id, due)
    end
    if not earliest or due < earliest then earliest = due end
    for i = 1, tags do redis.call('ZADD', K_tg, 0, ARGV[at + i] .. '\0' .. id) end
    at = at + tags
    answer[#answer + 1] = next_id
    answer[#answer + 1] = 1
  end
end
if next_id > first then
  redis.call('HSET', K_m, 'id', string.format('%.0f', next_id))
  redis.call('HSET', K_h, unpack(heads))
  redis.call('HSET', K_s, unpack(specs))
  redis.call('ZADD', K_ix, unpack(index))
  if #ready > 0 then redis.call('ZADD', K_rd, unpack(ready)) end
  if #delayed > 0 then redis.call('ZADD', K_dl, unpack(delayed)) end
  tell_work(earliest)
end
return answer
