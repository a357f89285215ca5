-- Gives a delivery back, to be handed out when due. KEYS: stream, waiting, attempts, members.
-- ARGV: me, group, id, due in ms, blame (0|1), attempt record or ''.
local mine = redis.call('ZSCORE', KEYS[4], ARGV[1])
if not mine or tonumber(mine) <= 0 then return -1 end
local pending = redis.call('XPENDING', KEYS[1], ARGV[2], ARGV[3], ARGV[3], 1)[1]
if not pending or pending[2] ~= ARGV[1] then return 0 end
if ARGV[5] == '1' then
  redis.call('XCLAIM', KEYS[1], ARGV[2], 'mq-waiting', 0, ARGV[3])
else
  redis.call('XCLAIM', KEYS[1], ARGV[2], 'mq-waiting', 0, ARGV[3], 'JUSTID')
end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[3], ARGV[3], ARGV[6]) end
return 1
