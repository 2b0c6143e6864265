-- Record outcomes, then promote and claim. ARGV: channel, worker, outcome count, then six for each outcome
-- (kind, id6, lease, and three more), then limit, promote (0/1), metadata of 'processing', and the claimable types' names.
-- Returns accepted (a string of 0 and 1), ms until the next due job or -1, and id6, head, spec of each claimed job.
local bad = probe()
if bad then return bad end
local worker, count = ARGV[2], tonumber(ARGV[3])
local at = 3
local accepted, finished, wake = {}, {}, false
for n = 1, count do
  local kind, id, lease = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local a, b, c = ARGV[at + 4], ARGV[at + 5], ARGV[at + 6]
  at = at + 6
  local h = held_by_lease(id, lease)
  accepted[n] = h and '1' or '0'
  if h then
    unlink(h, id) -- first on purpose: removing is allowed when memory is full, and makes room
    local asked = h.cancel_req > 0
    if kind == 'C' then
      h.status, h.completed, h.reason, h.next_at = S_COMPLETED, now, 0, 0
      if a == '1' then redis.call('HSET', K_o, id, b) end
      log_event(h, id, E_COMPLETED, '')
      finished[#finished + 1] = id
    elseif kind == 'F' then
      h.status, h.failed, h.reason = S_FAILED, now, tonumber(c)
      h.next_at = a ~= '' and now + tonumber(a) or 0
      redis.call('HDEL', K_o, id)
      add_error(id, string.format('%.0f ', now) .. b)
      if asked then
        h.status, h.cancelled, h.next_at = S_CANCELLED, now, 0
        log_event(h, id, E_CANCELLED, b)
      else
        log_event(h, id, E_FAILED, b)
      end
      if h.next_at == 0 then finished[#finished + 1] = id end
    elseif kind == 'X' or asked then
      h.status, h.cancelled, h.next_at = S_CANCELLED, now, 0
      redis.call('HDEL', K_o, id)
      log_event(h, id, E_CANCELLED, '')
      finished[#finished + 1] = id
    else
      h.status, h.next_at, h.progress = S_PENDING, 0, NO_PROGRESS
      h.attempts = math.max(h.attempts - 1, 0)
      redis.call('HDEL', K_o, id)
      log_event(h, id, E_RELEASED, a)
      wake = true
    end
    release_lease(h)
    link(h, id)
  end
end
tell_finished(finished)

local limit, promote, metadata = tonumber(ARGV[at + 1]), ARGV[at + 2] == '1', ARGV[at + 3]
at = at + 3
local next_due = -1
if promote then
  -- Members begin with the due time, so what has fallen due stands first.
  local due = redis.call('ZRANGEBYLEX', K_dl, '-', '[' .. pack6(now) .. string.rep('\255', 12), 'LIMIT', 0, 1000)
  if #due > 0 then
    local ready = {}
    for _, member in ipairs(due) do
      ready[#ready + 1] = 0
      ready[#ready + 1] = string.sub(member, 7, 12) .. string.sub(member, 1, 6) .. string.sub(member, 13)
    end
    redis.call('ZREM', K_dl, unpack(due))
    redis.call('ZADD', K_rd, unpack(ready))
  end
  local first = redis.call('ZRANGE', K_dl, 0, 0)[1]
  if first then next_due = math.max(0, (struct.unpack('>I6', first)) - now) end
end

-- The heads of each type's line, refilled as they are used up; the best of them is taken.
local lines = {}
if limit > 0 then
  local types = #ARGV - at
  local chunk = types == 1 and limit or math.ceil(limit / types) + 2
  for n = at + 1, #ARGV do
    local number = redis.call('HGET', K_ty, ARGV[n])
    if number then
      lines[#lines + 1] = { low = '[' .. struct.pack('>I2', number), high = '(' .. struct.pack('>I2', number + 1), next = 1, items = {} }
    end
  end
  local function refill(line)
    line.items = redis.call('ZRANGEBYLEX', K_rd, line.low, line.high, 'LIMIT', 0, chunk)
    line.next = 1
    local last = line.items[#line.items]
    if last then line.low = '(' .. last end
  end
  local function look(line)
    if line.next > #line.items then
      if #line.items > 0 and #line.items < chunk then
        line.items, line.next = {}, 1 -- the last page was not full: nothing follows
      else
        refill(line)
      end
    end
    line.member = line.items[line.next]
    line.prio = nil
    if line.member then line.prio, line.due, line.id = struct.unpack('>I4I6I6', line.member, 3) end
  end
  for _, line in ipairs(lines) do look(line) end
  local picked = {}
  while #picked < limit do
    local best = nil
    for _, line in ipairs(lines) do
      if line.prio and (not best or line.prio < best.prio or (line.prio == best.prio and
          (line.due < best.due or (line.due == best.due and line.id < best.id)))) then best = line end
    end
    if not best then break end
    picked[#picked + 1] = best.member
    best.next = best.next + 1
    look(best)
  end

  local answer = { table.concat(accepted), next_due }
  if #picked > 0 then
    if not redis.call('ZSCORE', K_wl, worker) then redis.call('ZADD', K_wl, now, worker) end
    local ids = {}
    for n, member in ipairs(picked) do ids[n] = string.sub(member, 13) end
    local heads, specs = redis.call('HMGET', K_h, unpack(ids)), redis.call('HMGET', K_s, unpack(ids))
    local lease = redis.call('HINCRBY', K_m, 'lease', #picked) - #picked
    redis.call('ZREM', K_rd, unpack(picked))
    local gone, put, index, held = {}, {}, {}, {}
    for n, id in ipairs(ids) do
      local h = heads[n] and specs[n] and decode(heads[n])
      if h and (h.status == S_PENDING or h.status == S_FAILED) then -- else a ghost: dropped, not in the way
        gone[#gone + 1] = index_member(h, id)
        if h.attempts > 0 then h.retried = now end
        if h.progress ~= NO_PROGRESS or h.attempts > 0 then redis.call('HDEL', K_o, id) end
        h.status, h.attempts, h.lease, h.worker = S_PROCESSING, h.attempts + 1, lease + n, worker
        h.locked, h.updated, h.progress, h.cancel_req = now, now, NO_PROGRESS, 0
        if h.started == 0 then h.started = now end
        log_event(h, id, E_PROCESSING, metadata)
        local data = encode(h)
        put[#put + 1] = id
        put[#put + 1] = data
        index[#index + 1] = 0
        index[#index + 1] = index_member(h, id)
        held[#held + 1] = 0
        held[#held + 1] = worker .. '\0' .. id
        answer[#answer + 1] = id
        answer[#answer + 1] = data
        answer[#answer + 1] = specs[n]
      end
    end
    if #put > 0 then
      redis.call('ZREM', K_ix, unpack(gone))
      redis.call('HSET', K_h, unpack(put))
      redis.call('ZADD', K_ix, unpack(index))
      redis.call('ZADD', K_ls, unpack(held))
    end
  end
  if wake then tell_work(now) end
  return answer
end
if wake then tell_work(now) end
return { table.concat(accepted), next_due }
