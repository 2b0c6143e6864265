-- Common to all scripts. Each reads and checks first and writes afterwards: Lua has no rollback.
local SPILL = 2000

local function pack6(number) return struct.pack('>I6', number) end

local function name_of(id) return string.format('%.0f', (struct.unpack('>I6', id))) end

local function ready_member(h, id, due) return struct.pack('>I2I4I6', h.type, h.prio, due) .. id end

local function delayed_member(h, id, due) return struct.pack('>I6I2I4', due, h.type, h.prio) .. id end

local function index_member(h, id) return struct.pack('>I2I1', h.type, h.status) .. id end

local function parked_member(h, id, due) return h.group .. '\0' .. ready_member(h, id, due) end

local function running_member(h, id) return h.group .. '\0' .. id end

local function has(h, flag) return math.floor(h.flags / flag) % 2 == 1 end

local function set_flag(h, flag) if not has(h, flag) then h.flags = h.flags + flag end end

local function clear_flag(h, flag) if has(h, flag) then h.flags = h.flags - flag end end

-- When the job may run next, nil if not by itself. One that came back into the line after it was parked has its place
-- there by next_at.
local function due_of(h)
  if h.status == S_WAITING then return h.next_at > 0 and h.next_at or nil end -- a wait costs no attempt
  if h.attempts >= h.max or (h.flags > 0 and h.status == S_PENDING and has(h, F_BLOCKED)) then return nil end
  if h.status == S_PENDING then return h.next_at > 0 and h.next_at or h.run_at end
  if h.status == S_FAILED and h.next_at > 0 then return h.next_at end
  return nil
end

local function log_event(h, id, kind, metadata)
  local event = struct.pack('>I1I6I3', kind, now, #metadata) .. metadata
  if #h.events + #event > SPILL then -- the last one stays, where it is small: it tells of a cascade
    local kept = #event > SPILL and '' or event
    redis.call('HSET', K_ev, id, (redis.call('HGET', K_ev, id) or '') .. h.events .. (kept == '' and event or ''))
    h.events = kept
  else
    h.events = h.events .. event
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

local function is_finished(h)
  return h.status == S_COMPLETED or h.status == S_CANCELLED or (h.status == S_FAILED and h.next_at == 0)
end

local function options_of(spec)
  local text = string.match(spec, '^(.-)\n')
  return text == '' and {} or cjson.decode(text)
end

-- A job's options (JSON) with one member more, its payload as it was.
local function with_option(spec, text)
  local at = string.find(spec, '\n', 1, true)
  local options = at > 1 and string.sub(spec, 1, at - 2) .. ',' or '{'
  return options .. text .. '}' .. string.sub(spec, at)
end

-- The number of a type, which is given one if it is new.
local function type_number(name)
  local number = tonumber(redis.call('HGET', K_ty, name))
  if not number then
    number = redis.call('HINCRBY', K_m, 'type', 1)
    redis.call('HSET', K_ty, name, number)
    redis.call('HSET', K_tn, number, name)
  end
  return number
end

-- ISO 8601 in UTC, of milliseconds since 1970.
local function iso(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local doe = days - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local rest = ms % 86400000
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, doy - math.floor((153 * mp + 2) / 5) + 1,
    math.floor(rest / 3600000), math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end

-- A job that has failed for good goes on as a dead letter. ARGV: its head and id, message and reason as JSON. Returns the
-- number of the new job. flush() puts it into its place.
local function bury(h, id, message, reason)
  local spec = redis.call('HGET', K_s, id)
  local dead_type = options_of(spec).dl
  local number, dead, name = type_number(dead_type), redis.call('HINCRBY', K_m, 'id', 1), redis.call('HGET', K_tn, h.type)
  local packed, own = pack6(dead), name_of(id)
  redis.call('HSET', K_s, id, with_option(spec, string.format('"dla":%.0f,"dli":%.0f', now, dead)))
  redis.call('HSET', K_s, packed, '\n' .. '{"originalJob": {"id": ' .. own .. ', "jobType": ' .. cjson.encode(name)
    .. ', "attempts": ' .. h.attempts .. ', "maxAttempts": ' .. h.max .. '}, "originalPayload": '
    .. string.match(spec, '\n(.*)') .. ', "failure": {"message": ' .. message .. ', "reason": ' .. reason
    .. ', "failedAt": "' .. iso(now) .. '"}}')
  local d = { type = number, prio = 2147483647, status = S_PENDING }
  push(put.h, packed, fresh_head(number, d.prio, 1, now, '', 0,
    '{"sourceJobId": ' .. own .. ', "sourceJobType": ' .. cjson.encode(name) .. '}'))
  push(put.ix, 0, index_member(d, packed))
  push(put.rd, 0, ready_member(d, packed, now))
  return dead
end

-- The unique key of a job is free again, or taken again.
local function unique_member(spec, id) return options_of(spec).uq .. '\0' .. id end

local function release_unique(h, id)
  if has(h, F_UNIQUE) then redis.call('ZREM', K_uq, unique_member(redis.call('HGET', K_s, id), id)) end
end

-- These jobs have ended, and their heads are stored: whoever waited for the last of them may run, or is cancelled with all
-- that wait for it. So many at a time; what is left is settled by later calls. Returns what was cancelled, and whether
-- there is work.
local function resolve(ended, roots, wells)
  local budget, cancelled, wake = 2000, {}, false
  while #ended > 0 do
    local touched, order, following, their_roots = {}, {}, {}, {}
    for n, id in ipairs(ended) do
      local root = roots and roots[n] or id
      local well = wells and wells[n]
      if not wells then
        local data = redis.call('HGET', K_h, id)
        well = not data or decode(data).status == S_COMPLETED
      end
      local members = budget > 0
        and redis.call('ZRANGEBYLEX', K_dp, '[' .. id, '[' .. id .. string.rep('\255', 6), 'LIMIT', 0, budget) or {}
      if #members == budget then redis.call('ZADD', K_cq, 0, id .. root .. (well and '1' or '0')) end
      budget = budget - #members
      for _, member in ipairs(members) do
        local dependent = string.sub(member, 7)
        local t = touched[dependent]
        if not t then
          t = { met = 0 }
          touched[dependent] = t
          order[#order + 1] = dependent
        end
        t.met = t.met + 1
        if not well and not t.root then t.root = root end
      end
      in_pieces('ZREM', K_dp, members)
    end
    table.sort(order)
    local ready = {}
    for _, id in ipairs(order) do
      local t, data = touched[id], redis.call('HGET', K_h, id)
      local left = redis.call('HINCRBY', K_un, id, -t.met)
      if left <= 0 then redis.call('HDEL', K_un, id) end
      local h = data and decode(data)
      if h and h.status == S_PENDING and has(h, F_BLOCKED) then
        if t.root and not has(h, F_ANYWAY) then
          unlink(h, id)
          h.status, h.cancelled = S_CANCELLED, now
          log_event(h, id, E_CANCELLED, '{"rootJobId": ' .. name_of(t.root) .. ', "dependencyCascade": true}')
          link(h, id)
          release_unique(h, id)
          cancelled[#cancelled + 1] = id
          if has(h, F_DEPENDANTS) then
            following[#following + 1] = id
            their_roots[#their_roots + 1] = t.root
          end
        elseif left <= 0 then
          clear_flag(h, F_BLOCKED)
          log_event(h, id, E_UNBLOCKED, '')
          link(h, id)
          wake = true
        end
      elseif h and h.status == S_WAITING and has(h, F_BLOCKED) and left <= 0 then -- however they ended
        clear_flag(h, F_BLOCKED)
        h.next_at = now
        log_event(h, id, E_UNBLOCKED, '')
        link(h, id)
        wake = true
      end
    end
    flush()
    ended, roots, wells = following, their_roots, nil
  end
  tell_finished(cancelled)
  return cancelled, wake
end

-- Go on where resolve() had to stop.
local function resume_resolving()
  local first = redis.call('ZRANGE', K_cq, 0, 0)[1]
  if not first then return false end
  redis.call('ZREM', K_cq, first)
  local _, wake = resolve({ string.sub(first, 1, 6) }, { string.sub(first, 7, 12) }, { string.sub(first, 13) == '1' })
  return wake
end

-- All that is left of resolve(), before a job whose end is not settled yet runs again: else that would free or cancel
-- those that wait for its next end.
local function settle_all()
  local work = false
  while redis.call('ZCARD', K_cq) > 0 do work = resume_resolving() or work end
  if work then tell_work(now) end
end

-- Let a job that is there already be waited for. Nothing if it has ended well, or gone.
local function wait_for(prerequisite, id)
  local data = redis.call('HGET', K_h, prerequisite)
  local p = data and decode(data)
  if not p or p.status == S_COMPLETED or redis.call('ZADD', K_dp, 0, prerequisite .. id) == 0 then return end
  redis.call('HINCRBY', K_un, id, 1)
  if not has(p, F_DEPENDANTS) then
    set_flag(p, F_DEPENDANTS)
    redis.call('HSET', K_h, prerequisite, encode(p))
  end
  return is_finished(p)
end

-- Run a finished job again, now: at least one more attempt is granted. When flush() has stored it, wait_again().
local function run_again(h, id, told)
  unlink(h, id)
  h.status, h.run_at, h.max = S_PENDING, now, math.max(h.max, h.attempts + 1)
  h.next_at, h.reason, h.completed, h.progress, h.retried = 0, 0, 0, NO_PROGRESS, now
  clear_flag(h, F_BLOCKED)
  redis.call('HDEL', K_o, id)
  log_event(h, id, E_RETRIED, told)
  if has(h, F_UNIQUE) then redis.call('ZADD', K_uq, 0, unique_member(redis.call('HGET', K_s, id), id)) end
  link(h, id)
end

-- A job that was run again waits for those it names that may still end well, and for whom it waits already.
local function wait_again(id)
  for _, number in ipairs(options_of(redis.call('HGET', K_s, id)).on or {}) do
    local prerequisite = pack6(number)
    local data = redis.call('HGET', K_h, prerequisite)
    if data and not is_finished(decode(data)) then wait_for(prerequisite, id) end
  end
  if redis.call('HGET', K_un, id) then
    local h = decode(redis.call('HGET', K_h, id))
    unlink(h, id)
    set_flag(h, F_BLOCKED)
    link(h, id)
    flush()
  end
end

-- A job waits no more, and a wait that goes on would have to begin anew: before its state changes.
local function leave_wait(h, id)
  local counts = redis.call('HGET', K_sn, id)
  local field = counts and id .. string.sub(counts, 5, 8)
  local stored = field and redis.call('HGET', K_st, field)
  if not stored then return end
  local ends = struct.unpack('>I6', stored)
  if ends > 0 and ends <= now then return end
  local record = cjson.decode(string.match(string.sub(stored, 19), '^(.-)\n'))
  redis.call('HDEL', K_st, field)
  if record.token_id then redis.call('ZREM', K_tw, record.token_id .. '\0' .. id) end
  if has(h, F_BLOCKED) then
    for _, number in ipairs(record.job_ids or {}) do redis.call('ZREM', K_dp, pack6(number) .. id) end
    redis.call('HDEL', K_un, id)
    clear_flag(h, F_BLOCKED)
  end
end

-- The highest number of a job's steps, and the wait that goes on.
local function count_steps(id, seq, open)
  local counts = redis.call('HGET', K_sn, id)
  local last, before = 0, 0
  if counts then last, before = struct.unpack('>I4I4', counts) end
  redis.call('HSET', K_sn, id, struct.pack('>I4I4', math.max(last, seq), open or before))
end

local function new_token(token, owner, timeout, tags)
  local ends = timeout and now + timeout or 0
  redis.call('HSET', K_tk, token, struct.pack('>I1I6I6I6I6', T_WAITING, owner and (struct.unpack('>I6', owner)) or 0, now, ends, 0)
    .. tags .. '\n')
  if ends > 0 then redis.call('ZADD', K_te, ends, token) end
  if owner then redis.call('ZADD', K_tj, 0, owner .. token) end
end

-- Whoever waits for this token goes on.
local function wake_waiting(token)
  local members = redis.call('ZRANGEBYLEX', K_tw, '[' .. token .. '\0', '(' .. token .. '\1')
  for _, member in ipairs(members) do
    local id = string.sub(member, -6)
    local data = redis.call('HGET', K_h, id)
    local h = data and decode(data)
    if h and h.status == S_WAITING and h.next_at == 0 then
      unlink(h, id)
      h.next_at = now
      link(h, id)
    end
  end
  in_pieces('ZREM', K_tw, members)
  flush()
  if #members > 0 then tell_work(now) end
end

-- The end of a token that waits. Returns it.
local function answer_token(token, stored, status, text)
  local _, owner, created, ends = struct.unpack('>I1I6I6I6', stored)
  local value = struct.pack('>I1I6I6I6I6', status, owner, created, ends, now)
    .. string.match(string.sub(stored, 26), '^(.-)\n') .. '\n' .. text
  redis.call('HSET', K_tk, token, value)
  redis.call('ZREM', K_te, token)
  if owner == 0 then redis.call('ZADD', K_to, now, token) end
  wake_waiting(token)
  return value
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
