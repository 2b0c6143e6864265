#!lua
-- KEYS cf
-- Claim nothing of this type from now on; the empty name is every type. ARGV: channel, type, whose wish (JSON).
local bad = probe()
if bad then return bad end
return redis.call('HSETNX', K_cf, 'p' .. ARGV[2], string.format('%.0f ', now) .. ARGV[3])
