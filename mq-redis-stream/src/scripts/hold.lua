-- Records an attempt; the delivery stays where it is. KEYS: stream, attempts, members. ARGV: me, group, id, record.
local mine = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not mine or tonumber(mine) <= 0 then return -1 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[3], ARGV[3], 1)[1]
if not pending or pending[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return 1
