#!lua
-- KEYS m h s ev rd dl ix ls gr pk tg id ty tn dp un cq uq ul lw lf
-- Add jobs, all or none, in their order. ARGV: channel, number of types, their names, then one packed value a job:
-- type (counted from 1), flags, max attempts, priority (inverted), run_at ms or NEVER, delay ms, length of all texts; key,
-- group, unique key and tags, each with a NUL behind it; with the flag 'unique' its window (ms, 0: while unfinished) and
-- whether a pending one is replaced; with 'depends' how many it names, for how many it waits, and each of these: an id, or a position in this call as a
-- negative number; spec. Returns id and created (1/0) of each.
local bad = probe()
if bad then return bad end
local answer, types, keys, earliest = {}, {}, {}, nil
local first = tonumber(redis.call('HGET', K_m, 'id') or '0')
local next_id, next_type = first, tonumber(redis.call('HGET', K_m, 'type') or '0')
local specs, new_keys, new_types, new_names, tagged = {}, {}, {}, {}, {}
local uniques, unique_members, latest, replaced, waiting = {}, {}, {}, {}, {}

-- The job that stands in the way of another with this key.
local function unique_holder(key, window, replace)
  if uniques[key] then return uniques[key] end
  if window > 0 then
    local id = redis.call('HGET', K_ul, key)
    local data = id and redis.call('HGET', K_h, id)
    return data and decode(data).created > now - window and id or nil
  end
  local members = redis.call('ZREVRANGEBYLEX', K_uq, '(' .. key .. '\1', '[' .. key .. '\0')
  if not replace then return members[1] and string.sub(members[1], -6) end
  for _, member in ipairs(members) do
    local id = string.sub(member, -6)
    local data = redis.call('HGET', K_h, id)
    if data and decode(data).status == S_PENDING then return id end
  end
end

-- What a job waits for, each once, and the numbers of those that it named; or an error.
local function settle_waits(prerequisites, named)
  local on, names, seen = {}, {}, {}
  for k, number in ipairs(prerequisites) do
    if number > 0 and not redis.call('HGET', K_h, pack6(number)) then
      return redis.error_reply('NOJOB ' .. string.format('%.0f', number))
    end
    -- A job of this call that was there already has not the tags that it was to get.
    local is_meant = number > 0 or k <= named or answer[-2 * number] == 1
    if number < 0 then number = answer[-2 * number - 1] end
    if is_meant and not seen[number] then -- two places may be one job
      on[#on + 1], seen[number] = number, true
      if k <= named then names[#names + 1] = string.format('%.0f', number) end
    end
  end
  return nil, on, names
end

local last_type = 2 + tonumber(ARGV[2])
for n = last_type + 1, #ARGV do
  local type, flags, max, prio, run_at, delay, length, at = struct.unpack('>I2I1I2I4I8I8I2', ARGV[n])
  local name, key, group, unique = ARGV[2 + type], '', '', ''
  local tags_end = at + length
  if length > 0 then key, group, unique, at = struct.unpack('sss', ARGV[n], at) end
  local behind, window, replace, prerequisites, named = tags_end, 0, 0, nil, 0
  if unique ~= '' then window, replace, behind = struct.unpack('>I8I1', ARGV[n], behind) end
  if flags >= F_DEPENDS then -- the highest of them
    local many
    prerequisites = {}
    named, many, behind = struct.unpack('>I4I4', ARGV[n], behind)
    for k = 1, many do prerequisites[k], behind = struct.unpack('>i8', ARGV[n], behind) end
  end
  local spec = string.sub(ARGV[n], behind)
  local due = run_at < NEVER and run_at or now + delay
  local holder = nil
  if key ~= '' then holder = keys[key] or redis.call('HGET', K_id, key) end
  if unique ~= '' then
    holder = unique_holder(unique, window, replace == 1)
    if holder and replace == 1 and not uniques[unique] then
      local moment = run_at < NEVER and string.format(', "runAt": %.0f', run_at) or string.format(', "delayMs": %.0f', delay)
      replaced[#replaced + 1] = { id = holder, due = due, spec = spec, moment = moment }
      uniques[unique] = holder
      if not earliest or due < earliest then earliest = due end
    end
  end
  if holder then
    push(answer, (struct.unpack('>I6', holder)), 0)
  else
    local number = types[name] or tonumber(redis.call('HGET', K_ty, name))
    if not number then
      next_type = next_type + 1
      if next_type > 65534 then return redis.error_reply('TYPES there are 65534 job types already') end
      number = next_type
      push(new_types, name, number)
      push(new_names, number, name)
    end
    types[name] = number
    next_id = next_id + 1
    local id = pack6(next_id)
    if key ~= '' then
      keys[key] = id
      push(new_keys, key, id)
    end
    if unique ~= '' then
      uniques[unique] = id
      push(unique_members, 0, unique .. '\0' .. id)
      push(latest, unique, id)
    end
    if prerequisites then
      local wrong, on, names = settle_waits(prerequisites, named)
      if wrong then return wrong end
      if #names > 0 then spec = with_option(spec, '"on":[' .. table.concat(names, ',') .. ']') end
      waiting[#waiting + 1] = { id = id, on = on }
    end
    local h = { type = number, prio = prio, status = S_PENDING }
    push(put.h, id, fresh_head(number, h.prio, max, due, group, flags, ''))
    push(specs, id, spec)
    push(put.ix, 0, index_member(h, id))
    if prerequisites then
      -- its place is found below, when all are stored
    elseif due <= now then
      push(put.rd, 0, ready_member(h, id, due))
    else
      push(put.dl, 0, delayed_member(h, id, due))
    end
    if not earliest or due < earliest then earliest = due end
    while at < tags_end do
      local tag
      tag, at = struct.unpack('s', ARGV[n], at)
      push(tagged, 0, tag .. '\0' .. id)
    end
    push(answer, next_id, 1)
  end
end
if next_id > first then
  redis.call('HSET', K_m, 'id', string.format('%.0f', next_id), 'type', next_type)
  in_pieces('HSET', K_ty, new_types)
  in_pieces('HSET', K_tn, new_names)
  in_pieces('HSET', K_s, specs)
  in_pieces('HSET', K_id, new_keys)
  in_pieces('ZADD', K_tg, tagged)
  in_pieces('ZADD', K_uq, unique_members)
  in_pieces('HSET', K_ul, latest)
  flush()
end
for _, r in ipairs(replaced) do
  local h, spec = decode(redis.call('HGET', K_h, r.id)), redis.call('HGET', K_s, r.id)
  local payload = string.match(r.spec, '\n(.*)')
  unlink(h, r.id)
  h.run_at, h.next_at = r.due, 0
  log_event(h, r.id, E_EDITED, '{"payload": ' .. payload .. r.moment .. '}')
  redis.call('HSET', K_s, r.id, string.match(spec, '^.-\n') .. payload)
  link(h, r.id)
  flush()
end
local over, listed = {}, {}
for _, w in ipairs(waiting) do
  for _, number in ipairs(w.on) do
    local prerequisite = pack6(number)
    local ended = wait_for(prerequisite, w.id)
    if ended ~= nil then w.blocked = true end
    if ended and not listed[prerequisite] then
      listed[prerequisite] = true
      over[#over + 1] = prerequisite
    end
  end
end
for _, w in ipairs(waiting) do -- now that those which others wait for are marked
  local h = decode(redis.call('HGET', K_h, w.id))
  if w.blocked then set_flag(h, F_BLOCKED) end
  link(h, w.id)
end
flush()
if #over > 0 then resolve(over) end
if earliest then tell_work(earliest) end
return answer
