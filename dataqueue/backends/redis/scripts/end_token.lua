#!lua flags=allow-oom
-- KEYS h rd dl ix ls gr pk tk te to tw lw
-- The answer to a token, if it is the first one. Its time may be over without anybody having said so yet. ARGV: channel,
-- its id, its new status, its output (JSON) or error. Returns the token, and whether this was its end.
local bad = probe()
if bad then return bad end
local stored = redis.call('HGET', K_tk, ARGV[2])
if not stored then return { false, 0 } end
local status, _, _, ends = struct.unpack('>I1I6I6I6', stored)
if status ~= T_WAITING then return { stored, 0 } end
if ends > 0 and ends <= now then return { answer_token(ARGV[2], stored, T_TIMED_OUT, ''), 0 } end
return { answer_token(ARGV[2], stored, tonumber(ARGV[3]), ARGV[4]), 1 }
