#!lua flags=allow-oom
-- KEYS h s o er ev rd dl ix tg id ls gr pk dp un ul st sn tk te tj tw lw
-- Delete jobs of one type and state that ended by a moment, with all that belongs to them. ARGV: channel, type2 status1,
-- id6 after which to look, that moment (ms), how many to look at, how many to delete at most, only count (0/1). Returns
-- how many, and after which id to go on ('': what follows was all created later).
--
-- Jobs that are over are in none of rd, dl, ls, gr, pk and uq. A job that was cancelled while it waited for others by
-- their tags may leave its pairs in dp, which go when those others end.
local bad = probe()
if bad then return bad end
local prefix, after, before, looks, most = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local members = redis.call('ZRANGEBYLEX', K_ix, '(' .. prefix .. after, '[' .. prefix .. string.rep('\255', 6),
  'LIMIT', 0, looks)
local ids, zrem_ix, tagged, keys, uniques, waits, steps, tokens, made = {}, {}, {}, {}, {}, {}, {}, {}, {}
local bytes, over = 0, #members < looks
local next_after = #members > 0 and string.sub(members[#members], -6)

-- Whether others still have to be told of its end.
local function is_awaited(h, id)
  return has(h, F_DEPENDANTS)
    and #redis.call('ZRANGEBYLEX', K_dp, '[' .. id, '[' .. id .. string.rep('\255', 6), 'LIMIT', 0, 1) > 0
end

local function take(h, id, member)
  local spec = redis.call('HGET', K_s, id) or '\n'
  local options = options_of(spec)
  bytes = bytes + #spec
  ids[#ids + 1], zrem_ix[#zrem_ix + 1] = id, member
  for _, tag in ipairs(type(options.tags) == 'table' and options.tags or {}) do tagged[#tagged + 1] = tag .. '\0' .. id end
  if type(options.key) == 'string' and redis.call('HGET', K_id, options.key) == id then keys[#keys + 1] = options.key end
  if has(h, F_UNIQUE) and redis.call('HGET', K_ul, options.uq) == id then uniques[#uniques + 1] = options.uq end
  if has(h, F_STEPS) then
    local last = struct.unpack('>I4', redis.call('HGET', K_sn, id) or '\0\0\0\0')
    for seq = 1, last do steps[#steps + 1] = id .. struct.pack('>I4', seq) end
    bytes = bytes + 400 * last
    for _, token in ipairs(redis.call('ZRANGEBYLEX', K_tj, '[' .. id, '(' .. id .. '\255')) do
      made[#made + 1], tokens[#tokens + 1] = token, string.sub(token, 7)
    end
  end
  for _, number in ipairs(has(h, F_DEPENDS) and options.on or {}) do waits[#waits + 1] = pack6(number) .. id end
end

-- Whether to go on. Ids follow creation: after one that was created later no older one comes.
local function look_at(member, id, h)
  if h.created > before then
    over = true
    return false
  end
  local ended = h.status == S_COMPLETED and h.completed or h.status == S_FAILED and h.failed or h.cancelled
  if is_finished(h) and (ended > 0 and ended or h.updated) <= before and not is_awaited(h, id) then
    if ARGV[7] == '1' then ids[#ids + 1] = id else take(h, id, member) end
    if (#ids == most or bytes > 8388608) and member ~= members[#members] then
      next_after, over = id, false
      return false
    end
  end
  return true
end

local going, first = true, 1
while going and first <= #members do
  local looked = {}
  for n = first, math.min(first + 99, #members) do looked[#looked + 1] = string.sub(members[n], -6) end
  for n, data in ipairs(redis.call('HMGET', K_h, unpack(looked))) do
    going = going and (not data or look_at(members[first + n - 1], looked[n], decode(data)))
  end
  first = first + #looked
end
if ARGV[7] == '0' then
  in_pieces('HDEL', K_h, ids)
  in_pieces('HDEL', K_s, ids)
  in_pieces('HDEL', K_o, ids)
  in_pieces('HDEL', K_er, ids)
  in_pieces('HDEL', K_ev, ids)
  in_pieces('HDEL', K_un, ids)
  in_pieces('ZREM', K_ix, zrem_ix)
  in_pieces('ZREM', K_tg, tagged)
  in_pieces('HDEL', K_id, keys)
  in_pieces('HDEL', K_ul, uniques)
  in_pieces('ZREM', K_dp, waits)
  in_pieces('HDEL', K_st, steps)
  if #steps > 0 then in_pieces('HDEL', K_sn, ids) end
  in_pieces('ZREM', K_tj, made)
  in_pieces('HDEL', K_tk, tokens)
  in_pieces('ZREM', K_te, tokens)
  for _, token in ipairs(tokens) do wake_waiting(token) end -- nobody could answer it any more
end
return { #ids, over and '' or next_after }
