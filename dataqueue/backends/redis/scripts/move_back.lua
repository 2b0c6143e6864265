#!lua
-- KEYS h s er ev rd dl pk cf st tk te to cr cd lw
-- For dataqueue.testing.advance_clock: every time of jobs, events, limits and schedules moves into the past.
-- ARGV: channel, ms, most jobs, the names of the head's times. Returns the number of jobs, -1 for more than that.
local bad = probe()
if bad then return bad end
local by, jobs = tonumber(ARGV[2]), redis.call('HLEN', K_h)
if jobs > tonumber(ARGV[3]) then return -1 end

-- 0 is never, and stays so.
local function earlier(at) return at > 0 and math.max(1, at - by) or 0 end

local function earlier6(packed) return pack6(earlier((struct.unpack('>I6', packed)))) end

local function earlier_text(digits) return string.format('%.0f', earlier(tonumber(digits))) end

-- kind1 time6 length3 metadata, which may tell of moments.
local function earlier_events(log)
  local moved, at = {}, 1
  while at <= #log do
    local kind, time, length = struct.unpack('>I1I6I3', log, at)
    local metadata = string.sub(log, at + 10, at + 9 + length)
    for _, key in ipairs({ 'nextAttemptAt', 'until', 'waitUntil' }) do
      metadata = string.gsub(metadata, '("' .. key .. '": ?)(%d+)', function(name, digits) return name .. earlier_text(digits) end)
    end
    moved[#moved + 1] = struct.pack('>I1I6I3', kind, earlier(time), #metadata) .. metadata
    at = at + 10 + length
  end
  return table.concat(moved)
end

local function earlier_lines(text)
  return (string.gsub(text, '([^\n]*)\n', function(line) return string.gsub(line, '^%d+', earlier_text, 1) .. '\n' end))
end

-- ms6 count4 of the starts that count for a rate.
local function earlier_starts(log)
  return (string.gsub(log, '(......)(....)', function(time, count) return earlier6(time) .. count end))
end

local function rewrite(key, change)
  local all, changed = redis.call('HGETALL', key), {}
  for n = 1, #all, 2 do push(changed, all[n], change(all[n + 1], all[n])) end
  in_pieces('HSET', key, changed)
end

-- The due time stands so many bytes before the end of each member, or at its beginning.
local function rewrite_members(key, from_end)
  local members, fresh = redis.call('ZRANGE', key, 0, -1), {}
  for _, member in ipairs(members) do
    local at = from_end and #member - from_end + 1 or 1
    push(fresh, 0, string.sub(member, 1, at - 1) .. earlier6(string.sub(member, at, at + 5)) .. string.sub(member, at + 6))
  end
  in_pieces('ZREM', key, members)
  in_pieces('ZADD', key, fresh)
end

rewrite(K_h, function(data)
  local h = decode(data)
  for n = 4, #ARGV do h[ARGV[n]] = earlier(h[ARGV[n]]) end
  h.events = earlier_events(h.events)
  return encode(h)
end)
-- When a job became a dead letter; its options stand before the first newline, the payload behind it.
rewrite(K_s, function(spec)
  local options, payload = string.match(spec, '^([^\n]*)(.*)$')
  return string.gsub(options, '("dla":)(%d+)', function(name, digits) return name .. earlier_text(digits) end) .. payload
end)
rewrite(K_ev, earlier_events)
rewrite(K_er, earlier_lines)
rewrite_members(K_rd, 12)
rewrite_members(K_dl, nil)
rewrite_members(K_pk, 12)
rewrite(K_cf, function(value, field)
  local kind = string.sub(field, 1, 1)
  if kind == 's' then return earlier_starts(value) end
  if kind == 'p' then return (string.gsub(value, '^%d+', earlier_text, 1)) end
  return value
end)
-- until6 started6 done6 of a step; status1 job6 created6 timeout6 completed6 of a token.
rewrite(K_st, function(value)
  return earlier6(string.sub(value, 1, 6)) .. earlier6(string.sub(value, 7, 12)) .. earlier6(string.sub(value, 13, 18))
    .. string.sub(value, 19)
end)
rewrite(K_tk, function(value)
  return string.sub(value, 1, 7) .. earlier6(string.sub(value, 8, 13)) .. earlier6(string.sub(value, 14, 19))
    .. earlier6(string.sub(value, 20, 25)) .. string.sub(value, 26)
end)
for _, key in ipairs({ K_te, K_to }) do
  for _, token in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -by, token) end
end
rewrite(K_cr, function(value, field)
  if string.sub(field, 1, 1) ~= 's' then return value end
  local state = cjson.decode(value)
  for _, name in ipairs({ 'nx', 'le', 'sk', 'da', 'cr', 'up' }) do
    if state[name] then state[name] = earlier(state[name]) end
  end
  state.v = state.v + 1
  return cjson.encode(state)
end)
local schedules = redis.call('ZRANGE', K_cd, 0, -1)
for _, id in ipairs(schedules) do redis.call('ZINCRBY', K_cd, -by, id) end
redis.call('PUBLISH', CHANNEL, 'schedule')
tell_work(now)
return jobs
