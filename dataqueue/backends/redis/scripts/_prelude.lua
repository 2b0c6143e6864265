-- Common to all scripts. Each reads and checks first and writes afterwards: Lua has no rollback.
local SPILL = 2000

local function pack6(number) return struct.pack('>I6', number) end

local function name_of(id) return string.format('%.0f', (struct.unpack('>I6', id))) end

local function ready_member(h, id, due) return struct.pack('>I2I4I6', h.type, h.prio, due) .. id end

local function delayed_member(h, id, due) return struct.pack('>I6I2I4', due, h.type, h.prio) .. id end

local function index_member(h, id) return struct.pack('>I2I1', h.type, h.status) .. id end

local function parked_member(h, id, due) return h.group .. '\0' .. ready_member(h, id, due) end

local function running_member(h, id) return h.group .. '\0' .. id end

-- When the job may run next, nil if not by itself. One that came back into the line after it was parked has its place
-- there by next_at.
local function due_of(h)
  if h.attempts >= h.max then return nil end
  if h.status == S_PENDING then return h.next_at > 0 and h.next_at or h.run_at end
  if h.status == S_FAILED and h.next_at > 0 then return h.next_at end
  return nil
end

local function log_event(h, id, kind, metadata)
  h.events = h.events .. struct.pack('>I1I6I3', kind, now, #metadata) .. metadata
  if #h.events > SPILL then
    redis.call('HSET', K_ev, id, (redis.call('HGET', K_ev, id) or '') .. h.events)
    h.events = ''
  end
end

-- One command for many values, in pieces that Lua's stack can hold (an even number: pairs stay together).
local function in_pieces(command, key, values)
  for n = 1, #values, 4000 do
    redis.call(command, key, unpack(values, n, math.min(n + 3999, #values)))
  end
end

-- Changes of many jobs, gathered here and made by flush() with one command a structure.
local gone = { ix = {}, ls = {}, rd = {}, dl = {}, gr = {}, pk = {} }
local put = { h = {}, ix = {}, ls = {}, rd = {}, dl = {}, gr = {}, pk = {} }

local function push(list, a, b)
  local n = #list
  list[n + 1], list[n + 2] = a, b
end

-- Take the job out of the structures of its present state ...
local function unlink(h, id)
  push(gone.ix, index_member(h, id))
  if h.status == S_PROCESSING then
    push(gone.ls, h.worker .. '\0' .. id)
    if h.group ~= '' then push(gone.gr, running_member(h, id)) end
  else
    local due = due_of(h)
    if due then
      push(gone.rd, ready_member(h, id, due))
      push(gone.dl, delayed_member(h, id, due))
      if h.group ~= '' then push(gone.pk, parked_member(h, id, due)) end
    end
  end
end

-- ... and into those of its new one. parked: not into the line.
local function link(h, id, parked)
  h.updated = now
  push(put.h, id, encode(h))
  push(put.ix, 0, index_member(h, id))
  if h.status == S_PROCESSING then
    push(put.ls, 0, h.worker .. '\0' .. id)
    if h.group ~= '' then push(put.gr, 0, running_member(h, id)) end
  else
    local due = due_of(h)
    if due and parked then
      push(put.pk, 0, parked_member(h, id, due))
    elseif due and due <= now then
      push(put.rd, 0, ready_member(h, id, due))
    elseif due then
      push(put.dl, 0, delayed_member(h, id, due))
    end
  end
end

local function flush()
  in_pieces('ZREM', K_ix, gone.ix)
  in_pieces('ZREM', K_ls, gone.ls)
  in_pieces('ZREM', K_rd, gone.rd)
  in_pieces('ZREM', K_dl, gone.dl)
  in_pieces('ZREM', K_gr, gone.gr)
  in_pieces('ZREM', K_pk, gone.pk)
  in_pieces('HSET', K_h, put.h)
  in_pieces('ZADD', K_ix, put.ix)
  in_pieces('ZADD', K_ls, put.ls)
  in_pieces('ZADD', K_rd, put.rd)
  in_pieces('ZADD', K_dl, put.dl)
  in_pieces('ZADD', K_gr, put.gr)
  in_pieces('ZADD', K_pk, put.pk)
  gone = { ix = {}, ls = {}, rd = {}, dl = {}, gr = {}, pk = {} }
  put = { h = {}, ix = {}, ls = {}, rd = {}, dl = {}, gr = {}, pk = {} }
end

-- How many of a group may run: the least that a live worker asks for, nil for any number.
local function group_limit()
  local asked = redis.call('ZRANGE', K_gl, 0, -1, 'WITHSCORES')
  for n = 1, #asked, 2 do
    local ends = redis.call('ZSCORE', K_wl, asked[n])
    if ends and tonumber(ends) > now then return tonumber(asked[n + 1]) end
  end
  return nil
end

local function limit_groups(worker, most)
  if most == '0' then redis.call('ZREM', K_gl, worker) else redis.call('ZADD', K_gl, tonumber(most), worker) end
end

local function running_in(group) return redis.call('ZLEXCOUNT', K_gr, '[' .. group .. '\0', '(' .. group .. '\1') end

-- For so many free places of a group, the best parked jobs of every type come back into the line. At its end, so that
-- other groups have their turn. Returns whether there were any.
local function free_places(group, places)
  local prefix, found = group .. '\0', false
  local from = '[' .. prefix
  while places > 0 do
    local best = redis.call('ZRANGEBYLEX', K_pk, from, '(' .. group .. '\1', 'LIMIT', 0, places)
    if #best == 0 then break end
    local type = string.sub(best[1], #prefix + 1, #prefix + 2)
    for _, member in ipairs(best) do
      if string.sub(member, #prefix + 1, #prefix + 2) ~= type then break end
      local id = string.sub(member, -6)
      local data = redis.call('HGET', K_h, id)
      redis.call('ZREM', K_pk, member)
      if data then
        local h = decode(data)
        h.next_at, found = now, true
        redis.call('HSET', K_h, id, encode(h))
        redis.call('ZADD', K_rd, 0, ready_member(h, id, now))
      end
    end
    from = '(' .. prefix .. type .. string.rep('\255', 16)
  end
  return found
end

local function release_lease(h)
  h.lease, h.locked, h.worker, h.cancel_req = 0, 0, '', 0
end

local function add_error(id, entry)
  redis.call('HSET', K_er, id, (redis.call('HGET', K_er, id) or '') .. string.format('%.0f ', now) .. entry .. '\n')
end

-- Wake whoever sleeps beyond this moment. Nobody is told while nobody asks to be.
local function tell_work(from)
  local last = redis.call('ZREVRANGE', K_lw, 0, 0, 'WITHSCORES')
  if last[2] and tonumber(last[2]) > math.max(now, from) then
    redis.call('PUBLISH', CHANNEL, 'work')
  end
end

local function tell_finished(ids)
  if #ids == 0 then return end
  local last = redis.call('ZREVRANGE', K_lf, 0, 0, 'WITHSCORES')
  if last[2] and tonumber(last[2]) > now then
    local names = {}
    for i, id in ipairs(ids) do names[i] = name_of(id) end
    redis.call('PUBLISH', CHANNEL, 'finished ' .. table.concat(names, ' '))
  end
end

-- Each of these jobs (six bytes an id) as its id and its head, which is nil if there is no such job.
local function heads_of(packed)
  local ids, jobs = {}, {}
  for at = 1, #packed, 6 do ids[#ids + 1] = string.sub(packed, at, at + 5) end
  for n, data in ipairs(redis.call('HMGET', K_h, unpack(ids))) do
    jobs[n] = { id = ids[n], h = data and decode(data) or nil }
  end
  return jobs
end

local function is_held(h, lease) return h and h.status == S_PROCESSING and h.lease == lease end

-- The head of a job if this lease holds on it.
local function held_by_lease(id, lease)
  local data = redis.call('HGET', K_h, id)
  local h = data and decode(data)
  return is_held(h, lease) and h or nil
end

-- Some of what a worker holds, as the store sees it.
local function held_members(worker, most)
  return redis.call('ZRANGEBYLEX', K_ls, '[' .. worker .. '\0', '(' .. worker .. '\1', 'LIMIT', 0, most)
end
