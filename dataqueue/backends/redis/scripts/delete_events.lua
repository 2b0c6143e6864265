#!lua flags=allow-oom
-- KEYS h ev ix
-- Delete events from before a moment, of jobs of one type and state. ARGV: channel, type2 status1, id6 after which to
-- look, that moment (ms), how many jobs to look at, how many events to delete about. Returns how many, and after which id
-- to go on ('': what follows was all created later).
local bad = probe()
if bad then return bad end
local prefix, after, before, looks, most = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local members = redis.call('ZRANGEBYLEX', K_ix, '(' .. prefix .. after, '[' .. prefix .. string.rep('\255', 6),
  'LIMIT', 0, looks)
local count, emptied, logs, heads = 0, {}, {}, {}
local next_after = #members == looks and string.sub(members[#members], -6) or ''

-- A log is in the order of time: what is left of it. Counts what is not.
local function younger(log)
  local at = 1
  while at <= #log do
    local ms, length = struct.unpack('>I6I3', log, at + 1)
    if ms > before then break end
    count, at = count + 1, at + 10 + length
  end
  return at == 1 and log or string.sub(log, at)
end

for n, member in ipairs(members) do
  local id = string.sub(member, -6)
  local data = redis.call('HGET', K_h, id)
  local h = data and decode(data)
  if h and h.created > before then -- ids follow creation
    next_after = ''
    break
  end
  if h then
    local older = redis.call('HGET', K_ev, id)
    local left = older and younger(older) or ''
    if left == '' then
      if older then emptied[#emptied + 1] = id end
      local events = younger(h.events)
      if #events < #h.events then
        h.events = events
        push(heads, id, encode(h))
      end
    elseif #left < #older then
      push(logs, id, left)
    end
  end
  if count >= most and n < #members then
    next_after = id
    break
  end
end
in_pieces('HDEL', K_ev, emptied)
in_pieces('HSET', K_ev, logs)
in_pieces('HSET', K_h, heads)
return { count, next_after }
