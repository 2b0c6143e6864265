#!lua
-- KEYS m h s rd dl ix ls gr pk tg id ty tn lw
-- Add jobs, all or none, in their order. ARGV: channel, number of types, their names, then one packed value a job:
-- type (counted from 1), max attempts, priority (inverted), run_at ms or NEVER, delay ms, length of key, group and tags;
-- key, group and tags, each with a NUL behind it; spec. Returns id and created (1/0) of each.
local bad = probe()
if bad then return bad end
local answer, types, keys, earliest = {}, {}, {}, nil
local first = tonumber(redis.call('HGET', K_m, 'id') or '0')
local next_id, next_type = first, tonumber(redis.call('HGET', K_m, 'type') or '0')
local specs, new_keys, new_types, new_names, tagged = {}, {}, {}, {}, {}
local last_type = 2 + tonumber(ARGV[2])
for n = last_type + 1, #ARGV do
  local type, max, prio, run_at, delay, length, at = struct.unpack('>I2I2I4I8I8I2', ARGV[n])
  local name, key, group, spec = ARGV[2 + type], '', '', string.sub(ARGV[n], at + length)
  local tags_end = at + length
  if length > 0 then key, group, at = struct.unpack('ss', ARGV[n], at) end
  local holder = key ~= '' and (keys[key] or redis.call('HGET', K_id, key))
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
    local due = run_at < NEVER and run_at or now + delay
    local h = { type = number, prio = prio, status = S_PENDING }
    push(put.h, id, fresh_head(number, h.prio, max, due, group))
    push(specs, id, spec)
    push(put.ix, 0, index_member(h, id))
    if due <= now then
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
  flush()
  tell_work(earliest)
end
return answer
