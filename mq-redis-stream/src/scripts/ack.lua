-- Acknowledges for a living member. KEYS: stream, attempts, members, owner.
-- ARGV: me, group, ordered (0|1), count of ids with a record (they come first), ids….
local mine = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not mine or tonumber(mine) <= 0 then return -1 end
if ARGV[3] == '1' and redis.call('GET', KEYS[4]) ~= ARGV[1] then return -2 end
local done = redis.call('XACK', KEYS[1], ARGV[2], unpack(ARGV, 5))
for i = 5, 4 + tonumber(ARGV[4]) do redis.call('HDEL', KEYS[2], ARGV[i]) end
return done
