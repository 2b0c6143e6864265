#!lua flags=allow-oom
-- KEYS m h s o er ev rd dl ix ty tn wl ls gr pk gl cf dp un cq uq st sn tk te tw lw lf
-- Record outcomes, then promote and claim. ARGV: channel, worker, limit, promote (0/1), metadata of 'processing',
-- a letter for each outcome, id6 lease6 of each, number of claimable types, their names, and three details for each
-- outcome but P, a completion without output.
-- Returns what became of each outcome (a string of 0 for refused, 1 for recorded, 2 for cancelled instead), ms until the next due job or -1, ms until a used-up rate opens or -1, whether
-- limits decide about these types, how many were parked, the jobs that were cancelled since one they wait for ended badly,
-- and id6, head, spec of each claimed job.
local bad = probe()
if bad then return bad end
local worker, limit, promote, metadata = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1', ARGV[5]
local kinds, held, last_type = ARGV[6], ARGV[7], 8 + tonumber(ARGV[8])
local accepted, finished, outputs, no_outputs, wake, freed, ended = {}, {}, {}, {}, false, {}, {}
local configured = redis.call('HLEN', K_cf) > 0

local cascaded, for_jobs, next_wait = {}, {}, nil

-- The handler waits. seq4 until6 delay6 of the wait, its record, metadata of the event.
local function begin_wait(h, id, a, record, told)
  local seq, until_, delay = struct.unpack('>I4I6I6', a)
  local what = cjson.decode(record)
  h.status, h.next_at = S_WAITING, 0
  if what.kind == 'sleep' then
    h.next_at = until_ > 0 and until_ or now + delay
    if not next_wait or h.next_at < next_wait then next_wait = h.next_at end
  elseif what.kind == 'token' then
    local token = redis.call('HGET', K_tk, what.token_id)
    if token and string.byte(token) == T_WAITING then
      redis.call('ZADD', K_tw, 0, what.token_id .. '\0' .. id)
    else
      h.next_at, wake = now, true
    end
  else
    push(for_jobs, id, what.job_ids)
  end
  local until_moment = what.kind == 'sleep' and h.next_at or 0
  redis.call('HSETNX', K_st, id .. struct.pack('>I4', seq), struct.pack('>I6I6I6', until_moment, now, 0) .. record .. '\n')
  count_steps(id, seq, seq)
  set_flag(h, F_STEPS)
  log_event(h, id, E_WAITING, string.sub(told, 1, -2)
    .. (until_moment > 0 and string.format(', "waitUntil": %.0f}', until_moment) or ', "waitUntil": null}'))
end

-- Who waits for jobs, once their ends in this call are stored.
local function wait_for_jobs(id, numbers)
  local h = decode(redis.call('HGET', K_h, id))
  local waits = 0
  for _, number in ipairs(numbers) do
    local prerequisite = pack6(number)
    local data = redis.call('HGET', K_h, prerequisite)
    local p = data and decode(data)
    if p and not is_finished(p) and redis.call('ZADD', K_dp, 0, prerequisite .. id) == 1 then
      waits = waits + 1
      if not has(p, F_DEPENDANTS) then
        set_flag(p, F_DEPENDANTS)
        redis.call('HSET', K_h, prerequisite, encode(p))
      end
    end
  end
  if waits > 0 then
    redis.call('HINCRBY', K_un, id, waits)
    set_flag(h, F_BLOCKED)
  else
    h.next_at, wake = now, true
  end
  link(h, id)
  flush()
end

local function settle(h, id, kind, a, b, c)
  unlink(h, id)
  if kind == 'C' or kind == 'P' then
    h.status, h.completed, h.reason, h.next_at = S_COMPLETED, now, 0, 0
    if kind == 'C' then push(outputs, id, a) end
    log_event(h, id, E_COMPLETED, '')
  elseif kind == 'W' and h.cancel_req == 0 then
    begin_wait(h, id, a, b, c)
  else
    no_outputs[#no_outputs + 1] = id
    if kind == 'F' then
      h.failed, h.reason = now, tonumber(c)
      add_error(id, b)
    end
    if kind == 'R' then h.progress, h.attempts = NO_PROGRESS, math.max(h.attempts - 1, 0) end
    if kind == 'X' or h.cancel_req > 0 then
      h.status, h.cancelled, h.next_at = S_CANCELLED, now, 0
      log_event(h, id, E_CANCELLED, kind == 'R' and a or kind == 'W' and '' or b)
    elseif kind == 'F' then
      h.status, h.next_at = S_FAILED, a ~= '' and now + tonumber(a) or 0
      local told = b -- JSON, with one more field if there is more to tell
      if h.next_at > 0 then
        told = string.sub(b, 1, -2) .. string.format(', "nextAttemptAt": %.0f}', h.next_at)
      elseif has(h, F_DEAD) then
        local entry = cjson.decode(b)
        local dead = bury(h, id, cjson.encode(entry.message), cjson.encode(entry.failureReason))
        told = string.sub(b, 1, -2) .. string.format(', "deadLetterJobId": %.0f}', dead)
        wake = true
      end
      log_event(h, id, E_FAILED, told)
    else
      h.status, h.next_at = S_PENDING, 0
      log_event(h, id, E_RELEASED, a)
      wake = true
    end
  end
  if h.status ~= S_PENDING and h.status ~= S_WAITING and h.next_at == 0 then
    finished[#finished + 1] = id
    if h.flags > 0 then
      release_unique(h, id)
      if has(h, F_DEPENDANTS) then ended[#ended + 1] = id end
    end
  end
  if h.group ~= '' then freed[h.group] = (freed[h.group] or 0) + 1 end
  release_lease(h)
  link(h, id)
end

if #kinds > 0 then
  local ids, seen, at = {}, {}, last_type
  for n = 1, #kinds do ids[n] = string.sub(held, 12 * n - 11, 12 * n - 6) end
  local heads = redis.call('HMGET', K_h, unpack(ids))
  for n, id in ipairs(ids) do
    local kind, h = string.sub(kinds, n, n), seen[id] or heads[n] and decode(heads[n])
    if is_held(h, (struct.unpack('>I6', held, 12 * n - 5))) then
      seen[id] = h
      settle(h, id, kind, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
      accepted[n] = kind ~= 'X' and h.status == S_CANCELLED and '2' or '1'
    else
      accepted[n] = '0'
    end
    if kind ~= 'P' then at = at + 3 end
  end
  in_pieces('HSET', K_o, outputs)
  in_pieces('HDEL', K_o, no_outputs)
  flush()
  for n = 1, #for_jobs, 2 do wait_for_jobs(for_jobs[n], for_jobs[n + 1]) end
  if #ended > 0 then
    local gone, work = resolve(ended)
    for n, id in ipairs(gone) do gone[n] = (struct.unpack('>I6', id)) end
    cascaded, wake = gone, wake or work
  end
  for group, places in pairs(freed) do
    if free_places(group, places) then wake = true end
  end
  wake = wake or configured -- a place among its type's, for whoever sleeps
  tell_finished(finished)
end

local next_due = -1
if promote then
  if resume_resolving() then wake = true end
  -- Members begin with the due time, so what has fallen due stands first. In pieces, and not for ever.
  for _ = 1, 5 do
    local due = redis.call('ZRANGEBYLEX', K_dl, '-', '[' .. pack6(now) .. string.rep('\255', 12), 'LIMIT', 0, 1000)
    if #due == 0 then break end
    for _, member in ipairs(due) do
      push(put.rd, 0, string.sub(member, 7, 12) .. string.sub(member, 1, 6) .. string.sub(member, 13))
    end
    gone.dl = due
    flush()
  end
  local first = redis.call('ZRANGE', K_dl, 0, 0)[1]
  if first then next_due = math.max(0, (struct.unpack('>I6', first)) - now) end
end

-- What is left to a type by its limits, nil for any number; its rate and the starts that count.
local opens, limited = -1, false

local function opens_at(first, ms)
  local at = (struct.unpack('>I6', first)) + ms - now
  if opens < 0 or at < opens then opens = at end
end

local function room_of(name, number)
  local paused, most, rate, log = unpack(redis.call('HMGET', K_cf, 'p' .. name, 'm' .. name, 'r' .. name, 's' .. name))
  if paused or most or rate then limited = true end
  if paused then return 0 end
  local room = most and tonumber(most) or nil
  if most then
    local running = struct.pack('>I2I1', number, S_PROCESSING)
    room = math.max(0, room - redis.call('ZLEXCOUNT', K_ix, '[' .. running, '(' .. struct.pack('>I2I1', number, S_PROCESSING + 1)))
  end
  if not rate then return room end
  local count, ms = string.match(rate, '(%d+) (%d+)')
  local started, used, kept = log or '', 0, {}
  for at = 1, #started, 10 do
    local when, starts = struct.unpack('>I6I4', started, at)
    if when > now - ms then
      used = used + starts
      kept[#kept + 1] = string.sub(started, at, at + 9)
    end
  end
  if used >= tonumber(count) and #kept > 0 then opens_at(kept[1], ms) end
  local state = { count = tonumber(count), ms = tonumber(ms), used = used, kept = kept }
  return math.max(0, math.min(room or state.count, state.count - used)), state
end

-- The ready line of each type, read a page at a time; the best of their heads is next.
local lines, chunk, of_type, most = {}, limit, {}, nil
if limit > 0 and last_type > 8 then
  most = group_limit()
  local paused = configured and redis.call('HGET', K_cf, 'p') ~= false
  limited = paused or most ~= nil
  for n, number in ipairs(redis.call('HMGET', K_ty, unpack(ARGV, 9, last_type))) do
    local room, rate
    if configured then room, rate = room_of(ARGV[8 + n], number or 0) end
    if number and not paused and room ~= 0 then
      of_type[tonumber(number)] = #lines + 1
      push(lines, { room = room, rate = rate, name = ARGV[8 + n], low = '[' .. struct.pack('>I2', number), high = '(' .. struct.pack('>I2', number + 1), next = 1, items = {} })
    end
  end
  if #lines > 1 then chunk = math.ceil(limit / #lines) + 2 end
end

local function refill(line, most)
  line.items, line.next = redis.call('ZRANGEBYLEX', K_rd, line.low, line.high, 'LIMIT', 0, most), 1
  local last = line.items[#line.items]
  if last then line.low = '(' .. last end
  return line.items
end

local function look(line)
  if line.next > #line.items then refill(line, chunk) end
  line.prio, line.member = nil, line.room ~= 0 and line.items[line.next] or nil
  if line.member then line.prio, line.due, line.id = struct.unpack('>I4I6I6', line.member, 3) end
end

local function pick(most_of_all)
  if #lines == 1 then
    local line = lines[1]
    local count = line.room and math.min(line.room, most_of_all) or most_of_all
    if count == 0 then return {} end
    if line.room then line.room = line.room - count end
    return refill(line, count)
  end
  local picked = {}
  while #picked < most_of_all do
    local best = nil
    for _, line in ipairs(lines) do
      if line.prio and (not best or line.prio < best.prio or (line.prio == best.prio and
          (line.due < best.due or (line.due == best.due and line.id < best.id)))) then best = line end
    end
    if not best then break end
    picked[#picked + 1] = best.member
    best.next = best.next + 1
    if best.room then best.room = best.room - 1 end
    look(best)
  end
  return picked
end

-- What was picked and not taken leaves its place among its type's to the next.
local function give_back(member)
  local line = lines[of_type[(struct.unpack('>I2', member))]]
  if line.room then
    line.room = line.room + 1
    if #lines > 1 and not line.member then look(line) end
  end
end

if #lines > 1 then
  for _, line in ipairs(lines) do look(line) end
end
local answer = { table.concat(accepted), next_due, -1, limited and 1 or 0, 0, cascaded }
local left, lease, old_outputs, parked, running = limit, nil, {}, 0, {}
for _ = 1, #lines > 0 and 1000 or 0 do -- more than once only where members were left of jobs that are gone, or parked
  local picked, ids = pick(left), {}
  if #picked == 0 then break end
  for n, member in ipairs(picked) do ids[n] = string.sub(member, 13) end
  local heads, specs = redis.call('HMGET', K_h, unpack(ids)), redis.call('HMGET', K_s, unpack(ids))
  lease = lease or redis.call('HINCRBY', K_m, 'lease', limit) - limit
  for n, id in ipairs(ids) do
    local h = heads[n] and specs[n] and decode(heads[n])
    local due = h and due_of(h)
    local stands = due and ready_member(h, id, due) == picked[n]
    local full = false
    if stands and most and h.group ~= '' then
      running[h.group] = running[h.group] or running_in(h.group)
      full = running[h.group] >= most
      if not full then running[h.group] = running[h.group] + 1 end
    end
    if full then
      if h.status == S_PENDING and h.next_at > 0 then
        h.next_at = 0
        push(put.h, id, encode(h))
      end
      push(put.pk, 0, parked_member(h, id, due_of(h)))
      parked = parked + 1
      give_back(picked[n])
    elseif stands then
      push(gone.ix, index_member(h, id))
      left, lease = left - 1, lease + 1
      if h.status ~= S_WAITING then
        if h.attempts > 0 then
          h.retried = now
          old_outputs[#old_outputs + 1] = id
        end
        h.attempts, h.progress = h.attempts + 1, NO_PROGRESS
      end
      h.status, h.lease, h.worker, h.locked, h.next_at, h.cancel_req = S_PROCESSING, lease, worker, now, 0, 0
      if h.started == 0 then h.started = now end
      log_event(h, id, E_PROCESSING, metadata)
      link(h, id)
      push(answer, id, put.h[#put.h])
      answer[#answer + 1] = specs[n]
      local rate = lines[of_type[h.type]].rate
      if rate then rate.taken = (rate.taken or 0) + 1 end
    else
      give_back(picked[n])
    end
  end
  in_pieces('ZREM', K_rd, picked)
  if left == 0 or parked >= 500 then break end
end
in_pieces('HDEL', K_o, old_outputs)
flush()
-- Starts within a hundredth of the time are kept as one, at the last of them.
for _, line in ipairs(lines) do
  local rate = line.rate
  if rate and rate.taken then
    local slot, last = math.max(rate.ms / 100, 1), rate.kept[#rate.kept]
    local when, starts = 0, 0
    if last then when, starts = struct.unpack('>I6I4', last) end
    if last and math.floor(when / slot) == math.floor(now / slot) then
      rate.kept[#rate.kept] = nil
    else
      starts = 0
    end
    rate.kept[#rate.kept + 1] = struct.pack('>I6I4', now, starts + rate.taken)
    redis.call('HSET', K_cf, 's' .. line.name, table.concat(rate.kept))
    if rate.used + rate.taken >= rate.count then opens_at(rate.kept[1], rate.ms) end
  end
end
if wake then tell_work(now) elseif next_wait then tell_work(next_wait) end
answer[3], answer[5] = opens, parked
return answer
