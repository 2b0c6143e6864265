-- Common to all scripts. Each reads and checks first and writes afterwards: Lua has no rollback.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local SPILL = 2000

local function pack6(number) return struct.pack('>I6', number) end

local function ready_member(h, id, due) return struct.pack('>I2I4I6', h.type, h.prio, due) .. id end
local function delayed_member(h, id, due) return struct.pack('>I6I2I4', due, h.type, h.prio) .. id end
local function index_member(h, id) return struct.pack('>I2I1', h.type, h.status) .. id end

-- When the job may run next, nil if not by itself.
local function due_of(h)
  if h.attempts >= h.max then return nil end
  if h.status == S_PENDING then return h.run_at end
  if h.status == S_FAILED and h.next_at > 0 then return h.next_at end
  return nil
end

local function log_event(h, id, kind, metadata)
  h.events = h.events .. struct.pack('>I1I6I2', kind, now, #metadata) .. metadata
  if #h.events > SPILL then
    redis.call('HSET', K_ev, id, (redis.call('HGET', K_ev, id) or '') .. h.events)
    h.events = ''
  end
end

-- Take the job out of the structures of its present state ...
local function unlink(h, id)
  redis.call('ZREM', K_ix, index_member(h, id))
  if h.status == S_PROCESSING then
    redis.call('ZREM', K_ls, h.worker .. '\0' .. id)
  else
    local due = due_of(h)
    if due then
      redis.call('ZREM', K_rd, ready_member(h, id, due))
      redis.call('ZREM', K_dl, delayed_member(h, id, due))
    end
  end
end

-- ... and into those of its new one. Returns true if it is ready now.
local function link(h, id)
  h.updated = now
  redis.call('HSET', K_h, id, encode(h))
  redis.call('ZADD', K_ix, 0, index_member(h, id))
  if h.status == S_PROCESSING then
    redis.call('ZADD', K_ls, 0, h.worker .. '\0' .. id)
    return false
  end
  local due = due_of(h)
  if not due then return false end
  if due <= now then
    redis.call('ZADD', K_rd, 0, ready_member(h, id, due))
    return true
  end
  redis.call('ZADD', K_dl, 0, delayed_member(h, id, due))
  return false
end

local function release_lease(h)
  h.lease, h.locked, h.worker, h.cancel_req = 0, 0, '', 0
end

local function add_error(id, entry)
  redis.call('HSET', K_er, id, (redis.call('HGET', K_er, id) or '') .. entry .. '\n')
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
    for i, id in ipairs(ids) do names[i] = string.format('%.0f', (struct.unpack('>I6', id))) end
    redis.call('PUBLISH', CHANNEL, 'finished ' .. table.concat(names, ' '))
  end
end

-- The head of a job if this lease holds on it.
local function held_by_lease(id, lease)
  local data = redis.call('HGET', K_h, id)
  if not data then return nil end
  local h = decode(data)
  if h.status ~= S_PROCESSING or h.lease ~= lease then return nil end
  return h
end

-- A key of a wrong kind would stop a script half-way: find out before the first write.
local function probe()
  for _, pair in ipairs({
    { K_m, 'hash' }, { K_h, 'hash' }, { K_s, 'hash' }, { K_o, 'hash' }, { K_er, 'hash' }, { K_ev, 'hash' },
    { K_rd, 'zset' }, { K_dl, 'zset' }, { K_ix, 'zset' }, { K_tg, 'zset' }, { K_id, 'hash' }, { K_ty, 'hash' },
    { K_tn, 'hash' }, { K_wk, 'hash' }, { K_wl, 'zset' }, { K_ls, 'zset' }, { K_lw, 'zset' }, { K_lf, 'zset' } }) do
    local kind = redis.call('TYPE', pair[1]).ok
    if kind ~= 'none' and kind ~= pair[2] then
      return redis.error_reply('WRONGKEY ' .. pair[1] .. ' is a ' .. kind .. ', not a ' .. pair[2])
    end
  end
  return nil
end
