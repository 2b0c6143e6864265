#!lua
-- KEYS h s ev rd dl ix tg ls gr pk lw
-- Change pending jobs. ARGV: channel, id6 of each job, the new values (JSON: null to clear, what it does not have stays;
-- retry is a list of position and value), the new payload (empty: as it is), metadata of the events. A job that is moved
-- in time leaves its place in the line, or comes out of its parking. Returns a letter for each: changed, unchanged, missing.
local bad = probe()
if bad then return bad end
local new, payload = cjson.decode(ARGV[3]), ARGV[4]
local moment = new.run_at or (new.delay and now + new.delay)
local answer, specs, old_tags, new_tags, left, earliest, wake = {}, {}, {}, {}, {}, nil, false

-- nil where JSON has null.
local function value_of(value)
  if value == cjson.null then return nil end
  return value
end

-- The options are JSON up to the first newline; the payload behind it stays the text that it is.
local function edited(id, spec)
  local at = string.find(spec, '\n', 1, true)
  local text, rest = string.sub(spec, 1, at - 1), payload ~= '' and payload or string.sub(spec, at + 1)
  if new.timeout == nil and new.tags == nil and new.retry == nil and new.dl == nil then return text .. '\n' .. rest end
  local options = text ~= '' and cjson.decode(text) or {}
  if new.dl ~= nil then options.dl = value_of(new.dl) end
  if new.timeout ~= nil then options.timeout = value_of(new.timeout) end
  if new.tags ~= nil then
    for _, tag in ipairs(options.tags or {}) do old_tags[#old_tags + 1] = tag .. '\0' .. id end
    options.tags = value_of(new.tags)
    for _, tag in ipairs(options.tags or {}) do push(new_tags, 0, tag .. '\0' .. id) end
  end
  if new.retry ~= nil then
    local retry = options.retry or { cjson.null, cjson.null, cjson.null }
    for _, part in ipairs(new.retry) do retry[part[1]] = part[2] end
    options.retry = (value_of(retry[1]) ~= nil or value_of(retry[2]) ~= nil or value_of(retry[3]) ~= nil) and retry or nil
  end
  return (next(options) and cjson.encode(options) or '') .. '\n' .. rest
end

for n, job in ipairs(heads_of(ARGV[2])) do
  local id, h = job.id, job.h
  local spec = h and h.status == S_PENDING and redis.call('HGET', K_s, id)
  if spec then
    local due = due_of(h)
    local parked = not moment and due and h.group ~= '' and redis.call('ZSCORE', K_pk, parked_member(h, id, due))
    unlink(h, id)
    h.prio, h.max = new.prio or h.prio, new.max and math.max(new.max, h.attempts + 1) or h.max
    if moment then h.run_at, h.next_at = moment, 0 end
    if new.dl == cjson.null then clear_flag(h, F_DEAD) elseif new.dl then set_flag(h, F_DEAD) end
    push(specs, id, edited(id, spec))
    log_event(h, id, E_EDITED, ARGV[5])
    link(h, id, parked)
    due = due_of(h)
    if due and not (earliest and earliest < due) then earliest = due end
    if moment and moment > now and h.group ~= '' then left[h.group] = (left[h.group] or 0) + 1 end
    answer[n] = 'c'
  else
    answer[n] = h and 'u' or 'm'
  end
end
in_pieces('HSET', K_s, specs)
in_pieces('ZREM', K_tg, old_tags)
in_pieces('ZADD', K_tg, new_tags)
flush()
-- In line they held places that their groups' next may need.
for group, places in pairs(left) do
  if free_places(group, places) then wake = true end
end
if wake then tell_work(now) elseif earliest then tell_work(earliest) end
return table.concat(answer)
